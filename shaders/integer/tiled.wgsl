#import common/index.wgsl
#import common/transposed.wgsl

// y[m, n] = finish(sum over k of x[m, k] * w[n, k]) on codes, with f32 multiply-adds. A sum of up to PART terms is an
// exact integer below 2^24 in f32; longer sums are added up from such parts as i32.
// Tiles, blocks and lanes are those of gemm/tiled.wgsl. Why not i32 products throughout: many devices multiply integers
// at a quarter of the rate of floats.

const ROW_BLOCKS = ROWS / 4u;
const COLUMN_BLOCKS = COLUMNS / 4u;
const LANES_N = TILE_N / COLUMNS;
const LANES_M = TILE_M / ROWS;
const LANES = LANES_M * LANES_N;
// One vec4 of padding a row keeps the transposed stores off one bank.
const STRIDE_M = TILE_M / 4u + 1u;
const STRIDE_N = TILE_N / 4u + 1u;
const BLOCKS_K = TILE_K / 4u;
const BLOCKS_M = TILE_M / 4u * BLOCKS_K;
const BLOCKS_N = TILE_N / 4u * BLOCKS_K;

var<workgroup> sh_x: array<vec4<f32>, TILE_K * STRIDE_M>;
var<workgroup> sh_w: array<vec4<f32>, TILE_K * STRIDE_N>;

// The word of four rows: for each of its four k, a vector of the four rows.
fn unpacked(words: vec4<u32>) -> mat4x4<f32> {
    return transposed(
        vec4<f32>(unpack4xI8(words.x)),
        vec4<f32>(unpack4xI8(words.y)),
        vec4<f32>(unpack4xI8(words.z)),
        vec4<f32>(unpack4xI8(words.w)),
    );
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let flat = flat_group(workgroup, workgroups);
    let tile_n = flat % p.tiles_n;
    // Workgroups past the last, from folding the grid, get rows past the last and so store nothing.
    let tile_m = tile_row_of(flat / p.tiles_n);
    // A lane loads a block of x, or of w, or one of each.
    let lane_w = lane - BLOCKS_M % LANES;
    let loads_x = lane < BLOCKS_M;
    let loads_w = lane_w < BLOCKS_N;
    let k_x = lane % BLOCKS_K * 4u;
    let k_w = lane_w % BLOCKS_K * 4u;
    let row_w = tile_n * TILE_N + lane_w / BLOCKS_K * 4u;
    let at_x = k_x * STRIDE_M + lane / BLOCKS_K;
    let at_w = k_w * STRIDE_N + lane_w / BLOCKS_K;
    let source_x = lane_x(tile_m * TILE_M + lane / BLOCKS_K * 4u);
    let given = loading();
    let lane_n = lane % LANES_N;
    let lane_m = lane / LANES_N;
    var totals: array<vec4<i32>, ROWS * COLUMN_BLOCKS>;
    for (var part = 0u; part < p.k; part += PART) {
        var sums: array<vec4<f32>, ROWS * COLUMN_BLOCKS>;
        for (var i = 0u; i < ROWS * COLUMN_BLOCKS; i++) {
            sums[i] = vec4<f32>();
        }
        let end = min(part + PART, p.k);
        for (var k = part; k < end; k += TILE_K) {
            if loads_x {
                let block = unpacked(loaded4(words_x(source_x, k + k_x), given));
                sh_x[at_x] = block[0];
                sh_x[at_x + STRIDE_M] = block[1];
                sh_x[at_x + 2u * STRIDE_M] = block[2];
                sh_x[at_x + 3u * STRIDE_M] = block[3];
            }
            if loads_w {
                let block = unpacked(words_w(row_w, k + k_w));
                sh_w[at_w] = block[0];
                sh_w[at_w + STRIDE_N] = block[1];
                sh_w[at_w + 2u * STRIDE_N] = block[2];
                sh_w[at_w + 3u * STRIDE_N] = block[3];
            }
            workgroupBarrier();
            for (var kk = 0u; kk < TILE_K; kk++) {
                var right: array<vec4<f32>, COLUMN_BLOCKS>;
                for (var j = 0u; j < COLUMN_BLOCKS; j++) {
                    right[j] = sh_w[kk * STRIDE_N + j * LANES_N + lane_n];
                }
                for (var i = 0u; i < ROW_BLOCKS; i++) {
                    let left = sh_x[kk * STRIDE_M + i * LANES_M + lane_m];
                    for (var j = 0u; j < COLUMN_BLOCKS; j++) {
                        let at = i * 4u * COLUMN_BLOCKS + j;
                        sums[at] += left.x * right[j];
                        sums[at + COLUMN_BLOCKS] += left.y * right[j];
                        sums[at + 2u * COLUMN_BLOCKS] += left.z * right[j];
                        sums[at + 3u * COLUMN_BLOCKS] += left.w * right[j];
                    }
                }
            }
            workgroupBarrier();
        }
        for (var i = 0u; i < ROWS * COLUMN_BLOCKS; i++) {
            if IN_PARTS {
                totals[i] += vec4<i32>(sums[i]);
            } else {
                totals[i] = vec4<i32>(sums[i]);
            }
        }
    }
    for (var i = 0u; i < ROWS; i++) {
        let row = tile_m * TILE_M + (i / 4u * LANES_M + lane_m) * 4u + i % 4u;
        for (var j = 0u; j < COLUMN_BLOCKS; j++) {
            let column = tile_n * TILE_N + (j * LANES_N + lane_n) * 4u;
            store_sums(row, column, totals[i * COLUMN_BLOCKS + j]);
        }
    }
}
