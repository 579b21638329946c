#import common/index.wgsl
#import common/normal.wgsl
#import common/reduce.wgsl

// y = (x - mean) / sqrt(variance + eps) · weight + bias for each row, LANES invocations a row. p.pieces counts the numbers or
// vec4s of numbers in a row; p.freedom divides the squares: all columns, or one less. The variance is summed from differences to
// the mean: E[x²] - mean² would lose everything in rows far from zero. The row is read three times: the second and third time it
// is in the cache.

struct Params {
    rows: u32,
    pieces: u32,
    columns: u32,
    freedom: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<wide_x>;
@group(0) @binding(2) var<storage, read> weight: array<wide_w>;
@group(0) @binding(3) var<storage, read> bias: array<wide_w>;

// The zero of a rounding barrier.
fn no_bits() -> u32 {
    return p.rows >> 31u;
}

// Vectors of results.
fn words() -> u32 {
    return p.rows * p.pieces;
}

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
        sum += wide(x[start + i]);
    }
    let mean = reduce_sum(local, sum_of(sum)) / f32(p.columns);

    sum = wide();
    for (var i = lane; i < pieces; i += LANES) {
        sum = with_square(sum, wide(x[start + i]), mean);
    }
    let r = inverse_deviation(reduce_sum(local, sum_of(sum)));

    for (var i = lane; i < pieces; i += LANES) {
        store(start + i, normal(wide(x[start + i]), mean, r, wide(weight[i]), wide(bias[i])));
    }
}
