#import common/index.wgsl
#import common/reduce.wgsl

// y = (x - mean) / sqrt(variance + eps) · weight + bias for each row, LANES invocations a row. p.pieces counts the numbers or
// vec4s of numbers in a row; p.freedom divides the squares: all columns, or one less. The variance is summed from differences to
// the mean: E[x²] - mean² would lose everything in rows far from zero. The row is read once, all of it at a time, into registers.

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

// What an invocation has of its row: pieces LANES apart.
var<private> numbers: array<wide, STEPS>;

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let row = flat_group(group, groups) * (GROUP / LANES) + local / LANES;
    let lane = local % LANES;
    // A row past the end is the last one again, so that loads need no branch.
    let start = min(row, p.rows - 1u) * p.pieces;

    var sum = wide();
    for (var i = 0u; i < STEPS; i++) {
        let piece = lane + i * LANES;
        numbers[i] = wide(x[start + min(piece, p.pieces - 1u)]);
        sum += select(wide(), numbers[i], piece < p.pieces);
    }
    let mean = reduce_sum(local, sum_of(sum)) / f32(p.columns);

    sum = wide();
    for (var i = 0u; i < STEPS; i++) {
        let d = numbers[i] - mean;
        sum += select(wide(), d * d, lane + i * LANES < p.pieces);
    }
    let variance = reduce_sum(local, sum_of(sum)) / f32(p.freedom);
    let r = 1.0 / sqrt(variance + p.eps);

    for (var i = 0u; i < STEPS; i++) {
        let piece = lane + i * LANES;
        if row < p.rows && piece < p.pieces {
            let normal = (numbers[i] - mean) * r;
            store(start + piece, normal * wide(weight[piece]) + wide(bias[piece]));
        }
    }
}
