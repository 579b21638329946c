#import common/index.wgsl
#import common/reduce.wgsl

// y = exp(x - max) / Σ exp(x - max) for each row, LANES invocations a row. With HAS_MASK, mask[batch, column] = 0 replaces x
// by a large finite negative: a masked column gets 0 while any other is left, and all get the same when none is.

const MASKED = -1e30;

struct Params {
    rows: u32,
    pieces: u32,
    rows_of_mask: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<wide_x>;
@group(0) @binding(2) var<storage, read> mask: array<wide_mask>;
@group(0) @binding(3) var<storage, read_write> y: array<wide_x>;

fn score(row: u32, piece: u32) -> wide {
    let v = wide(x[row * p.pieces + piece]);
    if HAS_MASK {
        let valid = mask[row / p.rows_of_mask * p.pieces + piece] != wide_mask();
        return select(wide(MASKED), v, valid);
    }
    return v;
}

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
