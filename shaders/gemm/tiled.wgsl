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

fn transpose_x(at: u32, rows: array<element_x4, 4>) {
    let block = transpose(mat4x4<f32>(vec4<f32>(rows[0]), vec4<f32>(rows[1]), vec4<f32>(rows[2]), vec4<f32>(rows[3])));
    for (var j = 0u; j < 4u; j++) {
        sh_x[at + j * STRIDE_M] = block[j];
    }
}

fn transpose_w(at: u32, rows: array<element_w4, 4>) {
    let block = transpose(mat4x4<f32>(vec4<f32>(rows[0]), vec4<f32>(rows[1]), vec4<f32>(rows[2]), vec4<f32>(rows[3])));
    for (var j = 0u; j < 4u; j++) {
        sh_w[at + j * STRIDE_N] = block[j];
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
    // A lane loads a block of x, or of w, or one of each.
    let lane_w = lane - BLOCKS_M % LANES;
    let loads_x = lane < BLOCKS_M;
    let loads_w = lane_w < BLOCKS_N;
    let k_x = lane % BLOCKS_K * 4u;
    let k_w = lane_w % BLOCKS_K * 4u;
    let row_w = tile_n * TILE_N + lane_w / BLOCKS_K * 4u;
    let at_x = k_x * STRIDE_M + lane / BLOCKS_K;
    let at_w = k_w * STRIDE_N + lane_w / BLOCKS_K;
    var rows: array<RowX, 4>;
    for (var i = 0u; i < 4u; i++) {
        rows[i] = row_x(tile_m * TILE_M + lane / BLOCKS_K * 4u + i, group);
    }
    let lane_n = lane % LANES_N;
    let lane_m = lane / LANES_N;
    var sums: array<vec4<f32>, ROWS * COLUMN_BLOCKS>;
    for (var k = 0u; k < p.k; k += TILE_K) {
        if loads_x {
            let tap = tap_x(k + k_x);
            let loaded = array<element_x4, 4>(load_x(rows[0], tap), load_x(rows[1], tap), load_x(rows[2], tap), load_x(rows[3], tap));
            transpose_x(at_x, loaded);
        }
        if loads_w {
            let kw = k + k_w;
            transpose_w(at_w, array<element_w4, 4>(
                load_w(row_w, group, kw),
                load_w(row_w + 1u, group, kw),
                load_w(row_w + 2u, group, kw),
                load_w(row_w + 3u, group, kw),
            ));
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
            store_y(row, column, group, sums[i * COLUMN_BLOCKS + j]);
        }
    }
}
