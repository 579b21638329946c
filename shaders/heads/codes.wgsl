#import common/index.wgsl
#import common/rounded.wgsl
#import common/transposed.wgsl

// y[m, n] = scale · alpha_left · alpha_right · sum over k of (left[m, k] - z_left) · (right[n, k] - z_right) for every head of every
// image, on codes i8 of which four are in a word; a head has one step size alpha and one stored zero z for each operand.
//
// Operands, tiles and lanes as in heads/product.wgsl; the left one's neighbours are neighbouring k. Codes become differences to
// their zero as they are read, of up to 255 to either side. A sum of PART products of such is an exact integer in f32; longer
// sums are added up from such parts as i32. One rounding follows, of the sum to f32, and then one product.
// PRIOR adds SMCA's Gaussian to the results, whose columns are the cells of a grid.

const ROW_BLOCKS = ROWS / 4u;
const COLUMN_BLOCKS = COLUMNS / 4u;
const LANES_N = TILE_N / COLUMNS;
const LANES_M = TILE_M / ROWS;
const LANES = LANES_M * LANES_N;
// One vec4 of padding a row keeps the transposed stores off one bank.
const STRIDE_M = TILE_M / 4u + 1u;
const STRIDE_N = TILE_N / 4u + 1u;
const BLOCKS_K = TILE_K / 4u;

@group(0) @binding(1) var<storage, read> left: array<u32>;
@group(0) @binding(2) var<storage, read> right: array<u32>;
// [heads] each
@group(0) @binding(3) var<storage, read> left_state: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> right_state: array<vec4<f32>>;

var<workgroup> sh_left: array<vec4<f32>, TILE_K * STRIDE_M>;
var<workgroup> sh_right: array<vec4<f32>, TILE_K * STRIDE_N>;

// Four codes at `at` less their zero, of which the `valid` first count and the others become 0, from the words of the first
// and of the last that counts.
fn differences(first: u32, last: u32, at: u32, valid: u32, zero: f32) -> vec4<f32> {
    let shift = at % 4u * 8u;
    // In two steps: there is no shift by 32.
    let word = (first >> shift) | (last << (31u - shift) << 1u);
    let v = vec4<f32>(unpack4xI8(word)) - zero;
    return select(vec4<f32>(), v, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(valid));
}

fn read_left(at: u32, valid: u32, zero: f32) -> vec4<f32> {
    let first = left[at / 4u];
    if LEFT_FOURS {
        return vec4<f32>(unpack4xI8(first)) - zero;
    }
    return differences(first, left[(at + min(valid, 4u) - 1u) / 4u], at, valid, zero);
}

fn read_right(at: u32, valid: u32, zero: f32) -> vec4<f32> {
    let first = right[at / 4u];
    if RIGHT_FOURS {
        return vec4<f32>(unpack4xI8(first)) - zero;
    }
    return differences(first, right[(at + min(valid, 4u) - 1u) / 4u], at, valid, zero);
}

// The elements [m .. m + 4, k .. k + 4] with k slowest, zeros outside.
fn left_block(start: u32, m: u32, k: u32, zero: f32) -> mat4x4<f32> {
    var v: array<vec4<f32>, 4>;
    for (var i = 0u; i < 4u; i++) {
        v[i] = vec4<f32>();
        if m + i < p.m && k < p.k {
            v[i] = read_left(start + (m + i) * p.left_row + k, p.k - k, zero);
        }
    }
    return transposed(v[0], v[1], v[2], v[3]);
}

fn right_block(start: u32, n: u32, k: u32, zero: f32) -> mat4x4<f32> {
    var v: array<vec4<f32>, 4>;
    for (var i = 0u; i < 4u; i++) {
        let row = select(k, n, RIGHT_ALONG_K) + i;
        let first = select(n, k, RIGHT_ALONG_K);
        let rows = select(p.k, p.n, RIGHT_ALONG_K);
        let end = select(p.n, p.k, RIGHT_ALONG_K);
        v[i] = vec4<f32>();
        if row < rows && first < end {
            v[i] = read_right(start + row * p.right_row + first, end - first, zero);
        }
    }
    if RIGHT_ALONG_K {
        return transposed(v[0], v[1], v[2], v[3]);
    }
    return mat4x4<f32>(v[0], v[1], v[2], v[3]);
}

// The nearest floats. Above 2^24 WGSL lets a conversion round either way; the sum of two exact parts rounds to nearest.
fn floats_of(total: vec4<i32>) -> vec4<f32> {
    return vec4<f32>(total & vec4<i32>(-4096)) + vec4<f32>(total & vec4<i32>(4095));
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let flat = flat_group(workgroup, workgroups);
    let tile_n = flat % p.tiles_n;
    let tile_m = flat / p.tiles_n % p.tiles_m;
    let group = flat / (p.tiles_n * p.tiles_m);
    if group >= p.batch * p.heads {
        return;
    }
    let image = group / p.heads;
    let head = group % p.heads;
    let left_start = image * p.left_batch + head * p.left_head;
    let right_start = image * p.right_batch + head * p.right_head;
    let left_of_head = left_state[head];
    let right_of_head = right_state[head];
    let lane_n = lane % LANES_N;
    let lane_m = lane / LANES_N;
    var sums: array<vec4<f32>, ROWS * COLUMN_BLOCKS>;
    var totals: array<vec4<i32>, ROWS * COLUMN_BLOCKS>;
    for (var k = 0u; k < p.k; k += TILE_K) {
        for (var b = lane; b < TILE_M / 4u * BLOCKS_K; b += LANES) {
            let bk = b % BLOCKS_K;
            let bm = b / BLOCKS_K;
            let block = left_block(left_start, tile_m * TILE_M + bm * 4u, k + bk * 4u, left_of_head.w);
            for (var j = 0u; j < 4u; j++) {
                sh_left[(bk * 4u + j) * STRIDE_M + bm] = block[j];
            }
        }
        for (var b = lane; b < TILE_N / 4u * BLOCKS_K; b += LANES) {
            let bk = select(b / (TILE_N / 4u), b % BLOCKS_K, RIGHT_ALONG_K);
            let bn = select(b % (TILE_N / 4u), b / BLOCKS_K, RIGHT_ALONG_K);
            let block = right_block(right_start, tile_n * TILE_N + bn * 4u, k + bk * 4u, right_of_head.w);
            for (var j = 0u; j < 4u; j++) {
                sh_right[(bk * 4u + j) * STRIDE_N + bn] = block[j];
            }
        }
        workgroupBarrier();
        for (var kk = 0u; kk < TILE_K; kk++) {
            var columns: array<vec4<f32>, COLUMN_BLOCKS>;
            for (var j = 0u; j < COLUMN_BLOCKS; j++) {
                columns[j] = sh_right[kk * STRIDE_N + j * LANES_N + lane_n];
            }
            for (var i = 0u; i < ROW_BLOCKS; i++) {
                let rows = sh_left[kk * STRIDE_M + i * LANES_M + lane_m];
                for (var j = 0u; j < COLUMN_BLOCKS; j++) {
                    let at = i * 4u * COLUMN_BLOCKS + j;
                    sums[at] += rows.x * columns[j];
                    sums[at + COLUMN_BLOCKS] += rows.y * columns[j];
                    sums[at + 2u * COLUMN_BLOCKS] += rows.z * columns[j];
                    sums[at + 3u * COLUMN_BLOCKS] += rows.w * columns[j];
                }
            }
        }
        workgroupBarrier();
        if IN_PARTS && (k / TILE_K + 1u) % (PART / TILE_K) == 0u {
            for (var i = 0u; i < ROWS * COLUMN_BLOCKS; i++) {
                totals[i] += vec4<i32>(sums[i]);
                sums[i] = vec4<f32>();
            }
        }
    }
    let zero = p.k >> 31u;
    let factor = rounded(rounded(left_of_head.x * right_of_head.x, zero) * p.scale, zero);
    let y_start = image * p.y_batch + head * p.y_head;
    // As in heads/product.wgsl, the next sums move to the front.
    for (var i = 0u; i < ROWS; i++) {
        let row = tile_m * TILE_M + (i / 4u * LANES_M + lane_m) * 4u + i % 4u;
        for (var j = 0u; j < COLUMN_BLOCKS; j++) {
            let column = tile_n * TILE_N + (j * LANES_N + lane_n) * 4u;
            if row < p.m && column < p.n {
                var sum = sums[j];
                if IN_PARTS {
                    sum = floats_of(totals[j] + vec4<i32>(sum));
                }
                var v = rounded4(sum * factor, zero);
                if PRIOR {
                    v += prior(image, row, head, column);
                    if HALF_Y {
                        v = max(v, vec4<f32>(-65504.0));
                    }
                }
                write_y(y_start + row * p.y_row + column, v, p.n - column);
            }
        }
        for (var j = 0u; j + COLUMN_BLOCKS < ROWS * COLUMN_BLOCKS; j++) {
            sums[j] = sums[j + COLUMN_BLOCKS];
            if IN_PARTS {
                totals[j] = totals[j + COLUMN_BLOCKS];
            }
        }
    }
}
