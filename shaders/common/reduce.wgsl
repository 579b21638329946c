// Sums and maxima over the LANES invocations of a row; a workgroup of GROUP invocations holds GROUP / LANES rows.
// LANES is a power of two. The tree is the same in every run: results repeat bit by bit.
// Every invocation of the workgroup must call these together, those without a row included.

var<workgroup> reduce_cells: array<f32, GROUP>;

// The tree of sixteen, all of it by every lane: two barriers in place of six.
fn sum_of_sixteen(local: u32, v: f32) -> f32 {
    reduce_cells[local] = v;
    workgroupBarrier();
    let first = local - local % 16u;
    var four = vec4<f32>();
    for (var i = 0u; i < 4u; i++) {
        let at = first + i;
        four[i] = (reduce_cells[at] + reduce_cells[at + 8u]) + (reduce_cells[at + 4u] + reduce_cells[at + 12u]);
    }
    workgroupBarrier();
    return (four.x + four.z) + (four.y + four.w);
}

fn reduce_sum(local: u32, v: f32) -> f32 {
    if LANES == 16u {
        return sum_of_sixteen(local, v);
    }
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
