#import common/index.wgsl

// The states of many quantizers whose step sizes and zero points lie in one arena; one invocation a row of the table:
// (place of alpha, place of the zero point or NONE, bits, 1 if signed). A row of 0 bits is a gap between two quantizers.

const NONE = 0xffffffffu;

struct Params {
    n: u32,
    alpha_min: f32,
    alpha_max: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> arena: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> states: array<vec4<f32>>;

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i >= p.n {
        return;
    }
    let row = table[i];
    if row.z == 0u {
        states[i] = vec4<f32>();
        return;
    }
    var zero = 0.0;
    if row.y != NONE {
        zero = arena[row.y];
    }
    let half = f32(1u << (row.z - 1u));
    let low = select(0.0, -half, row.w != 0u);
    states[i] = state_of(arena[row.x], zero, low, low + 2.0 * half - 1.0, low + half);
}
