#import common/index.wgsl

// y[m, n] = epilogue(sum over k of x[m, k] * w[n, k]), in f32.
// A workgroup computes TILE_M x TILE_N results from slices of TILE_K; an invocation computes ROWS x COLUMNS of them, as
// blocks of 4 x 4 that lie half a tile apart, so that the lanes of a subgroup read neighbouring words of workgroup memory.
// The slices are stored with k slowest: an invocation loads 4 rows of 4 k and transposes them in registers.
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

fn stage_x(tile_row: u32, group: u32, k: u32, lane: u32) {
    for (var block = lane; block < BLOCKS_M; block += LANES) {
        let bk = block % BLOCKS_K;
        let bm = block / BLOCKS_K;
        let row = tile_row + bm * 4u;
        let a = vec4<f32>(load_x(row_x(row, group), k + bk * 4u));
        let b = vec4<f32>(load_x(row_x(row + 1u, group), k + bk * 4u));
        let c = vec4<f32>(load_x(row_x(row + 2u, group), k + bk * 4u));
        let d = vec4<f32>(load_x(row_x(row + 3u, group), k + bk * 4u));
        let at = bk * 4u * STRIDE_M + bm;
        sh_x[at] = vec4<f32>(a.x, b.x, c.x, d.x);
        sh_x[at + STRIDE_M] = vec4<f32>(a.y, b.y, c.y, d.y);
        sh_x[at + 2u * STRIDE_M] = vec4<f32>(a.z, b.z, c.z, d.z);
        sh_x[at + 3u * STRIDE_M] = vec4<f32>(a.w, b.w, c.w, d.w);
    }
}

fn stage_w(tile_column: u32, group: u32, k: u32, lane: u32) {
    for (var block = lane; block < BLOCKS_N; block += LANES) {
        let bk = block % BLOCKS_K;
        let bn = block / BLOCKS_K;
        let row = tile_column + bn * 4u;
        let a = vec4<f32>(load_w(row, group, k + bk * 4u));
        let b = vec4<f32>(load_w(row + 1u, group, k + bk * 4u));
        let c = vec4<f32>(load_w(row + 2u, group, k + bk * 4u));
        let d = vec4<f32>(load_w(row + 3u, group, k + bk * 4u));
        let at = bk * 4u * STRIDE_N + bn;
        sh_w[at] = vec4<f32>(a.x, b.x, c.x, d.x);
        sh_w[at + STRIDE_N] = vec4<f32>(a.y, b.y, c.y, d.y);
        sh_w[at + 2u * STRIDE_N] = vec4<f32>(a.z, b.z, c.z, d.z);
        sh_w[at + 3u * STRIDE_N] = vec4<f32>(a.w, b.w, c.w, d.w);
    }
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
    if group >= p.groups {
        return;
    }
    let lane_n = lane % LANES_N;
    let lane_m = lane / LANES_N;
    var sums: array<vec4<f32>, ROWS * COLUMN_BLOCKS>;
    for (var k = 0u; k < p.k; k += TILE_K) {
        stage_x(tile_m * TILE_M, group, k, lane);
        stage_w(tile_n * TILE_N, group, k, lane);
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
            store_y(row, column, group, sums[i * COLUMN_BLOCKS + j]);
        }
    }
}
