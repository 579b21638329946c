#import common/index.wgsl
#import common/integer_scale.wgsl

// The scales and the shifts of all products whose weights' codes lie in one arena, and whose biases in that of the parameters. What a
// row is of, in the table: (its first code, how many it has, the state of x, that of w), (place of the bias or NONE, 0, 0, 0). A row
// of no codes is a gap between two layers.

const NONE = 0xffffffffu;

struct Params {
    rows: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> arena: array<f32>;
@group(0) @binding(2) var<storage, read> states: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> w: array<u32>;
@group(0) @binding(4) var<storage, read> table: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> scales: array<f32>;
@group(0) @binding(6) var<storage, read_write> shifts: array<f32>;

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let index = flat_group(workgroup, workgroups) * (GROUP / LANES) + local / LANES;
    let inside = index < p.rows;
    let row = table[2u * min(index, p.rows - 1u)];
    let codes = sum_of_codes(local, row.x, select(row.x, row.x + row.y, inside));
    if local % LANES == 0u && inside {
        let place = table[2u * index + 1u].x;
        var b = 0.0;
        if place != NONE {
            b = arena[place];
        }
        let both = scale_and_shift(states[row.z], states[row.w], b, codes, p.rows >> 31u);
        scales[index] = select(0.0, both.x, row.y > 0u);
        shifts[index] = select(0.0, both.y, row.y > 0u);
    }
}
