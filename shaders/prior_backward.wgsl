#import common/index.wgsl
#import common/gaussian.wgsl

// The gradients of the Gaussian's centre c and inverse width w from that of the scores d, for each query of each head:
//
//     d_c = -2 SMOOTH w^2 * sum over cells of d * (c - cell)        d_w = -2 SMOOTH w * sum over cells of d * (c - cell)^2
//
// LANES invocations a row, GROUP / LANES rows a workgroup; a tree in a fixed order joins them.

struct Params {
    rows: u32,
    // numbers of a row
    keys: u32,
    queries: u32,
    heads: u32,
    columns: u32,
    inverse_columns: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> d: array<element>;
@group(0) @binding(2) var<storage, read> centre: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> inverse_width: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> d_centre: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> d_inverse_width: array<vec2<f32>>;

var<workgroup> cells: array<vec4<f32>, GROUP>;

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let index = flat_group(group, groups) * (GROUP / LANES) + local / LANES;
    let lane = local % LANES;
    let row = min(index, p.rows - 1u);
    // Rows go by image, head, query; points by image, query, head.
    let query = row % p.queries;
    let head = row / p.queries % p.heads;
    let at = (row / (p.queries * p.heads) * p.queries + query) * p.heads + head;
    let c = centre[at];

    var sums = vec4<f32>();
    for (var key = lane; key < p.keys; key += LANES) {
        let distance = c - cell_of(key, p.columns, p.inverse_columns);
        let g = f32(d[row * p.keys + key]);
        sums += g * vec4<f32>(distance, distance * distance);
    }
    cells[local] = sums;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            cells[local] += cells[local + half];
        }
        workgroupBarrier();
    }
    if lane == 0u && index < p.rows {
        let w = inverse_width[at];
        let total = cells[local];
        d_centre[at] = -2.0 * SMOOTH * w * w * total.xy;
        d_inverse_width[at] = -2.0 * SMOOTH * w * total.zw;
    }
}
