#import common/index.wgsl
#import common/straight_through.wgsl

// The straight-through gradients of weights that lie in one arena, a step size a row, written over the gradients of what their codes
// stand for. LANES invocations take a row, four pieces each at a time, whose loads are under way together. What a row is, in the table:
// (its first element in the arena, how many it has, its state, bits, and 256 if signed).

struct Params {
    rows: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> arena: array<wide>;
@group(0) @binding(2) var<storage, read> states: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> table: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> gradients: array<wide>;
@group(0) @binding(5) var<storage, read_write> sums: array<vec4<f32>>;

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let index = flat_group(workgroup, workgroups) * (GROUP / LANES) + local / LANES;
    let lane = local % LANES;
    let row = table[min(index, p.rows - 1u)];
    let s = states[row.z];
    let half = f32(1u << ((row.w & 255u) - 1u));
    let low = select(0.0, -half, row.w > 255u);
    let high = low + 2.0 * half - 1.0;
    let zero = p.rows >> 31u;
    let start = row.x / WIDTH;
    let end = select(0u, start + row.y / WIDTH, index < p.rows);
    for (var i = start + lane; i < end; i += 4u * LANES) {
        // Written out: what is past the end is read as the first and does not count.
        let has_1 = i + LANES < end;
        let has_2 = i + 2u * LANES < end;
        let has_3 = i + 3u * LANES < end;
        let at_1 = select(i, i + LANES, has_1);
        let at_2 = select(i, i + 2u * LANES, has_2);
        let at_3 = select(i, i + 3u * LANES, has_3);
        let x_0 = arena[i];
        let x_1 = arena[at_1];
        let x_2 = arena[at_2];
        let x_3 = arena[at_3];
        let d_0 = gradients[i];
        let d_1 = select(wide(), gradients[at_1], has_1);
        let d_2 = select(wide(), gradients[at_2], has_2);
        let d_3 = select(wide(), gradients[at_3], has_3);
        gradients[i] = straight_through(x_0, d_0, s, low, high, zero);
        let gradient_1 = straight_through(x_1, d_1, s, low, high, zero);
        let gradient_2 = straight_through(x_2, d_2, s, low, high, zero);
        let gradient_3 = straight_through(x_3, d_3, s, low, high, zero);
        if has_1 {
            gradients[at_1] = gradient_1;
        }
        if has_2 {
            gradients[at_2] = gradient_2;
        }
        if has_3 {
            gradients[at_3] = gradient_3;
        }
    }
    let total = state_sums(local, s);
    if lane == 0u && index < p.rows {
        sums[index] = total;
    }
}
