#import common/index.wgsl
#import common/reduce.wgsl

// y = exp(score - max) / Σ exp(score - max) for each row, LANES invocations a row.

struct Params {
    rows: u32,
    pieces: u32,
    rows_of_mask: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read_write> y: array<wide_x>;

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let row = flat_group(group, groups) * (GROUP / LANES) + local / LANES;
    let lane = local % LANES;
    // A row past the end is empty.
    let pieces = select(0u, p.pieces, row < p.rows);

    var most = wide(MASKED);
    for (var i = lane; i < pieces; i += LANES) {
        most = max(most, score(row, i));
    }
    let largest = reduce_max(local, max_of(most));

    var sum = wide();
    for (var i = lane; i < pieces; i += LANES) {
        sum += exp(score(row, i) - largest);
    }
    let total = reduce_sum(local, sum_of(sum));

    for (var i = lane; i < pieces; i += LANES) {
        y[row * p.pieces + i] = wide_x(exp(score(row, i) - largest) / total);
    }
}
