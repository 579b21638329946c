#import common/index.wgsl
#import common/reduce.wgsl

// d_x = y · (d_y - Σ d_y · y) for each row, LANES invocations a row; masked columns have a constant score and get 0.

struct Params {
    rows: u32,
    pieces: u32,
    rows_of_mask: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> y: array<wide_x>;
@group(0) @binding(2) var<storage, read> d_y: array<wide_x>;
@group(0) @binding(3) var<storage, read> mask: array<wide_mask>;
@group(0) @binding(4) var<storage, read_write> d_x: array<wide_x>;

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let row = flat_group(group, groups) * (GROUP / LANES) + local / LANES;
    let lane = local % LANES;
    // A row past the end is the last one again, and what is past the end of a row its last piece, so that loads need no branch.
    let start = min(row, p.rows - 1u) * p.pieces;
    let last = p.pieces - 1u;

    // Both are read once.
    var y_row: array<wide, STEPS>;
    var d_row: array<wide, STEPS>;
    for (var i = 0u; i < STEPS; i++) {
        let at = start + min(lane + i * LANES, last);
        y_row[i] = wide(y[at]);
        d_row[i] = wide(d_y[at]);
    }
    var sum = wide();
    for (var i = 0u; i < STEPS; i++) {
        sum += select(wide(), y_row[i] * d_row[i], lane + i * LANES < p.pieces);
    }
    let total = reduce_sum(local, sum_of(sum));

    for (var i = 0u; i < STEPS; i++) {
        let piece = lane + i * LANES;
        if row < p.rows && piece < p.pieces {
            var d = y_row[i] * (d_row[i] - total);
            if HAS_MASK {
                d = select(wide(), d, mask[row / p.rows_of_mask * p.pieces + piece] != wide_mask());
            }
            d_x[start + piece] = wide_x(d);
        }
    }
}
