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
    let start = row * p.pieces;
    // A row past the end is empty.
    let pieces = select(0u, p.pieces, row < p.rows);

    var sum = wide();
    for (var i = lane; i < pieces; i += LANES) {
        sum += wide(y[start + i]) * wide(d_y[start + i]);
    }
    let total = reduce_sum(local, sum_of(sum));

    for (var i = lane; i < pieces; i += LANES) {
        var d = wide(y[start + i]) * (wide(d_y[start + i]) - total);
        if HAS_MASK {
            d = select(wide(), d, mask[row / p.rows_of_mask * p.pieces + i] != wide_mask());
        }
        d_x[start + i] = wide_x(d);
    }
}
