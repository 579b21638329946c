#import common/index.wgsl
#import common/transposed.wgsl

// y[m, n] = factor * sum over k of left[m, k] * right[n, k], for every head of every image, on floats (floats.wgsl) or on codes
// less their stored zeros (codes.wgsl).
//
// An operand is a matrix with a stride of one in one direction: LEFT_ALONG_K says that neighbouring k are neighbours in
// memory, otherwise neighbouring m are, and so for the right one. A head's tokens are a slice of channels of [B, L, C], a
// head's map is a piece of [B, h, N, S]: nothing is transposed or gathered in memory.
//
// Tiles and lanes as in gemm/tiled.wgsl: a workgroup computes TILE_M x TILE_N results from slices of TILE_K that are stored
// with k slowest, an invocation ROWS x COLUMNS of them in blocks of 4 x 4.
//
// Sums are in f32. IN_PARTS, those of codes, which are integers, are added up as i32 from parts of PART products, each exact.

const ROW_BLOCKS = ROWS / 4u;
const COLUMN_BLOCKS = COLUMNS / 4u;
const LANES_N = TILE_N / COLUMNS;
const LANES_M = TILE_M / ROWS;
const LANES = LANES_M * LANES_N;
// One vec4 of padding a row keeps the transposed stores off one bank.
const STRIDE_M = TILE_M / 4u + 1u;
const STRIDE_N = TILE_N / 4u + 1u;
const BLOCKS_K = TILE_K / 4u;

var<workgroup> sh_left: array<vec4<f32>, TILE_K * STRIDE_M>;
var<workgroup> sh_right: array<vec4<f32>, TILE_K * STRIDE_N>;

// The elements [m .. m + 4, k .. k + 4] with k slowest, zeros outside. Loads do not branch, so that all are under way together: where
// there is nothing, they read the first element.
fn left_block(start: u32, m: u32, k: u32) -> mat4x4<f32> {
    var v: array<vec4<f32>, 4>;
    for (var i = 0u; i < 4u; i++) {
        let row = select(k, m, LEFT_ALONG_K) + i;
        let first = select(m, k, LEFT_ALONG_K);
        let rows = select(p.k, p.m, LEFT_ALONG_K);
        let end = select(p.m, p.k, LEFT_ALONG_K);
        let is_there = row < rows && first < end;
        let at = select(0u, start + row * p.left_row + first, is_there);
        let four = read_left(at, select(1u, end - first, is_there));
        v[i] = select(vec4<f32>(), four, kept(at) & vec4<bool>(is_there));
    }
    if LEFT_ALONG_K {
        return transposed(v[0], v[1], v[2], v[3]);
    }
    return mat4x4<f32>(v[0], v[1], v[2], v[3]);
}

fn right_block(start: u32, n: u32, k: u32) -> mat4x4<f32> {
    var v: array<vec4<f32>, 4>;
    for (var i = 0u; i < 4u; i++) {
        let row = select(k, n, RIGHT_ALONG_K) + i;
        let first = select(n, k, RIGHT_ALONG_K);
        let rows = select(p.k, p.n, RIGHT_ALONG_K);
        let end = select(p.n, p.k, RIGHT_ALONG_K);
        let is_there = row < rows && first < end;
        let at = select(0u, start + row * p.right_row + first, is_there);
        v[i] = select(vec4<f32>(), read_right(at, select(1u, end - first, is_there)), is_there);
    }
    if RIGHT_ALONG_K {
        return transposed(v[0], v[1], v[2], v[3]);
    }
    return mat4x4<f32>(v[0], v[1], v[2], v[3]);
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
    prepare(head);
    let lane_n = lane % LANES_N;
    let lane_m = lane / LANES_N;
    var sums: array<vec4<f32>, ROWS * COLUMN_BLOCKS>;
    var totals: array<Total, ROWS * COLUMN_BLOCKS>;
    for (var k = 0u; k < p.k; k += TILE_K) {
        for (var b = lane; b < TILE_M / 4u * BLOCKS_K; b += LANES) {
            let bk = select(b / (TILE_M / 4u), b % BLOCKS_K, LEFT_ALONG_K);
            let bm = select(b % (TILE_M / 4u), b / BLOCKS_K, LEFT_ALONG_K);
            let block = left_block(left_start, tile_m * TILE_M + bm * 4u, k + bk * 4u);
            for (var j = 0u; j < 4u; j++) {
                sh_left[(bk * 4u + j) * STRIDE_M + bm] = block[j];
            }
        }
        for (var b = lane; b < TILE_N / 4u * BLOCKS_K; b += LANES) {
            let bk = select(b / (TILE_N / 4u), b % BLOCKS_K, RIGHT_ALONG_K);
            let bn = select(b % (TILE_N / 4u), b / BLOCKS_K, RIGHT_ALONG_K);
            let block = right_block(right_start, tile_n * TILE_N + bn * 4u, k + bk * 4u);
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
                totals[i] += Total(sums[i]);
                sums[i] = vec4<f32>();
            }
        }
    }
    let y_start = image * p.y_batch + head * p.y_head;
    // The next sums move to the front instead of an index to them: compilers leave an array in memory that a long loop indexes
    // (measured, a factor of seven with dropout).
    for (var i = 0u; i < ROWS; i++) {
        let row = tile_m * TILE_M + (i / 4u * LANES_M + lane_m) * 4u + i % 4u;
        for (var j = 0u; j < COLUMN_BLOCKS; j++) {
            let column = tile_n * TILE_N + (j * LANES_N + lane_n) * 4u;
            if row < p.m && column < p.columns_y {
                var sum = sums[j];
                if IN_PARTS {
                    sum = floats_of(totals[j] + Total(sum));
                }
                let at = y_start + row * p.y_row + column;
                write_y(at, finished(sum, image, row, head, column, at), p.columns_y - column);
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
