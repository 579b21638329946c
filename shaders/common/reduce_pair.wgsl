// Two sums at once over the LANES invocations of a row, as common/reduce.wgsl has one: half of the barriers.
// Every invocation of the workgroup must call this together.

var<workgroup> pair_cells: array<vec2<f32>, GROUP>;

fn reduce_pair(local: u32, v: vec2<f32>) -> vec2<f32> {
    let lane = local % LANES;
    pair_cells[local] = v;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            pair_cells[local] += pair_cells[local + half];
        }
        workgroupBarrier();
    }
    return pair_cells[local - lane];
}
