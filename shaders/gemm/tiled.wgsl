#import common/index.wgsl

// y[m, n] = epilogue(sum over k of x[m, k] * w[n, k]), in f32.
// A workgroup computes TILE_M x TILE_N results from slices of TILE_K; an invocation computes ROWS x COLUMNS of them, as
// blocks of 4 x 4 that lie half a tile apart, so that the lanes of a subgroup read neighbouring words of workgroup memory.
// The slices are stored with k slowest; an invocation loads blocks of 4 k by 4 rows, as the operands' pieces know how.
// Why not one result an invocation: two loads for each multiply-add; here 16 to 64 multiply-adds share 4 to 8 loads.

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

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let flat = flat_group(workgroup, workgroups);
    let tile_n = flat % p.tiles_n;
    let tile_m = flat / p.tiles_n % p.tiles_m;
    let group_and_split = flat / (p.tiles_n * p.tiles_m);
    let group = group_and_split % p.groups;
    let split = group_and_split / p.groups;
    // The sums may be split over workgroups, each with a range of k and a result of its own.
    let first_k = split * p.split_k;
    if split > 0u && first_k >= k_of(group) {
        return;
    }
    let last_k = min(first_k + p.split_k, k_of(group));
    // A lane loads a block of x, or of w, or one of each.
    let lane_w = lane - BLOCKS_M % LANES;
    let loads_x = lane < BLOCKS_M;
    let loads_w = lane_w < BLOCKS_N;
    let k_x = lane % BLOCKS_K * 4u;
    let k_w = lane_w % BLOCKS_K * 4u;
    let row_w = tile_n * TILE_N + lane_w / BLOCKS_K * 4u;
    let at_x = k_x * STRIDE_M + lane / BLOCKS_K;
    let at_w = k_w * STRIDE_N + lane_w / BLOCKS_K;
    let source_x = lane_x(tile_m * TILE_M + lane / BLOCKS_K * 4u, group);
    let lane_n = lane % LANES_N;
    let lane_m = lane / LANES_N;
    var sums: array<vec4<f32>, ROWS * COLUMN_BLOCKS>;
    for (var k = first_k; k < last_k; k += TILE_K) {
        if loads_x {
            let block = block_x(source_x, k + k_x);
            sh_x[at_x] = block[0];
            sh_x[at_x + STRIDE_M] = block[1];
            sh_x[at_x + 2u * STRIDE_M] = block[2];
            sh_x[at_x + 3u * STRIDE_M] = block[3];
        }
        if loads_w {
            let block = block_w(row_w, group, k + k_w);
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
    for (var i = 0u; i < ROWS; i++) {
        let row = tile_m * TILE_M + (i / 4u * LANES_M + lane_m) * 4u + i % 4u;
        for (var j = 0u; j < COLUMN_BLOCKS; j++) {
            let column = tile_n * TILE_N + (j * LANES_N + lane_n) * 4u;
            store_y(row, column, group, split, sums[i * COLUMN_BLOCKS + j]);
        }
    }
}
