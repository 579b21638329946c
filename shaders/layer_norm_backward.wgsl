#import common/index.wgsl
#import common/reduce.wgsl

// The gradients of a layer norm. With n = (x - mean) · r, r = 1 / sqrt(variance + eps), g = d_y · weight:
//   d_x = r · (g - mean(g) - n · Σ g · n / p.freedom),   d_weight = Σ d_y · n,   d_bias = Σ d_y   over the rows.
//
// A workgroup takes the p.chunk rows of one part, GROUP / LANES at a time, and leaves one row of sums for weight and bias;
// the sums over the parts are nodes of their own. The statistics are computed again from x, which must be read anyway.

struct Params {
    rows: u32,
    pieces: u32,
    columns: u32,
    freedom: u32,
    chunk: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<wide_x>;
@group(0) @binding(2) var<storage, read> weight: array<wide_w>;
@group(0) @binding(3) var<storage, read> d_y: array<wide_x>;
@group(0) @binding(4) var<storage, read_write> d_x: array<wide_x>;
@group(0) @binding(5) var<storage, read_write> d_weight: array<wide>;
@group(0) @binding(6) var<storage, read_write> d_bias: array<wide>;

const ROWS = GROUP / LANES;

var<workgroup> cells: array<wide, GROUP>;

// The sum over the rows that the workgroup holds at a time, for the invocations of its first row.
fn join_rows(local: u32, v: wide) -> wide {
    cells[local] = v;
    workgroupBarrier();
    var sum = wide();
    if local < LANES {
        for (var i = local; i < GROUP; i += LANES) {
            sum += cells[i];
        }
    }
    workgroupBarrier();
    return sum;
}

@compute @workgroup_size(GROUP)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let part = group.x;
    let lane = local % LANES;
    let end = min((part + 1u) * p.chunk, p.rows);
    // Of the columns lane, lane + LANES, ...
    var weight_sums: array<wide, PER_LANE>;
    var bias_sums: array<wide, PER_LANE>;
    for (var j = 0u; j < PER_LANE; j++) {
        weight_sums[j] = wide();
        bias_sums[j] = wide();
    }
    for (var first = part * p.chunk; first < end; first += ROWS) {
        let row = first + local / LANES;
        let start = row * p.pieces;
        // A row past the end is empty.
        let pieces = select(0u, p.pieces, row < end);
        var sum = wide();
        for (var i = lane; i < pieces; i += LANES) {
            sum += wide(x[start + i]);
        }
        let mean = reduce_sum(local, sum_of(sum)) / f32(p.columns);
        sum = wide();
        for (var i = lane; i < pieces; i += LANES) {
            let d = wide(x[start + i]) - mean;
            sum += d * d;
        }
        let r = 1.0 / sqrt(reduce_sum(local, sum_of(sum)) / f32(p.freedom) + p.eps);

        var g_sum = wide();
        var gn_sum = wide();
        for (var j = 0u; j < PER_LANE; j++) {
            let i = lane + j * LANES;
            if i < pieces {
                let d = wide(d_y[start + i]);
                let n = (wide(x[start + i]) - mean) * r;
                let g = d * wide(weight[i]);
                g_sum += g;
                gn_sum += g * n;
                weight_sums[j] += d * n;
                bias_sums[j] += d;
            }
        }
        let g_mean = reduce_sum(local, sum_of(g_sum)) / f32(p.columns);
        let gn_mean = reduce_sum(local, sum_of(gn_sum)) / f32(p.freedom);
        for (var i = lane; i < pieces; i += LANES) {
            let n = (wide(x[start + i]) - mean) * r;
            let g = wide(d_y[start + i]) * wide(weight[i]);
            d_x[start + i] = wide_x(r * (g - g_mean - n * gn_mean));
        }
    }
    for (var j = 0u; j < PER_LANE; j++) {
        let i = lane + j * LANES;
        let weight_sum = join_rows(local, weight_sums[j]);
        let bias_sum = join_rows(local, bias_sums[j]);
        if local < LANES && i < p.pieces {
            d_weight[part * p.pieces + i] = weight_sum;
            d_bias[part * p.pieces + i] = bias_sum;
        }
    }
}
