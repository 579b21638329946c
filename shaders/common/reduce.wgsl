// Sums and maxima over the LANES invocations of a row; a workgroup of GROUP invocations holds GROUP / LANES rows.
// LANES is a power of two. The tree is the same in every run: results repeat bit by bit.
// Every invocation of the workgroup must call these together, those without a row included.

var<workgroup> reduce_cells: array<f32, GROUP>;

fn reduce_sum(local: u32, v: f32) -> f32 {
    let lane = local % LANES;
    reduce_cells[local] = v;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            reduce_cells[local] += reduce_cells[local + half];
        }
        workgroupBarrier();
    }
    let total = reduce_cells[local - lane];
    // The cells may be used again only when every lane has read the total.
    workgroupBarrier();
    return total;
}

fn reduce_max(local: u32, v: f32) -> f32 {
    let lane = local % LANES;
    reduce_cells[local] = v;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            reduce_cells[local] = max(reduce_cells[local], reduce_cells[local + half]);
        }
        workgroupBarrier();
    }
    let largest = reduce_cells[local - lane];
    workgroupBarrier();
    return largest;
}
