#import common/index.wgsl

// y[m, n] = epilogue(sum over k of x[m, k] * w[n, k]) on cooperative matrices: f16 operands, f32 sums.
// A workgroup computes TILE_M x TILE_N results from slices of TILE_K = 32; each of its subgroups (32 lanes) computes 32 x 32 of
// them as four blocks of 16 x 16. While one slice is multiplied, the next travels into registers, eight halves a load.
// The blocks are written out: drivers leave arrays of matrices in memory instead of registers (measured, a factor of two).
// The rows of a slice are padded by 8 halves, so that the 16 rows of a block begin in different banks.
// Results pass through workgroup memory: only there are their rows and columns known, which the epilogue needs.

const SUBGROUPS_N = TILE_N / 32u;
const LANES = TILE_M * SUBGROUPS_N;
// A slice and a padded row of it, in vectors of four halves.
const SLICE = 8u;
const STRIDE = SLICE + 2u;
// Eight halves a load, so four loads for the row of a slice.
const LOADED_ROWS = LANES / 4u;
const LOADS_X = TILE_M / LOADED_ROWS;
const LOADS_W = TILE_N / LOADED_ROWS;
const STRIP = 16u * 32u;

var<workgroup> sh_x: array<vec4<f16>, TILE_M * STRIDE>;
var<workgroup> sh_w: array<vec4<f16>, TILE_N * STRIDE>;
var<workgroup> sh_y: array<f32, STRIP * LANES / 32u>;

// Four halves from two words. Exact, and no instruction once compiled: WGSL's bitcast does not know f16 vectors in naga 30.
fn halves(words: vec2<u32>) -> vec4<f16> {
    return vec4<f16>(vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y)));
}

fn store_strip(subgroup: u32, lane: u32, row: u32, column: u32, group: u32) {
    for (var i = lane; i < STRIP / 4u; i += 32u) {
        let at = subgroup * STRIP + i * 4u;
        let strip = vec4<f32>(sh_y[at], sh_y[at + 1u], sh_y[at + 2u], sh_y[at + 3u]);
        store_y(row + i / 8u, column + i % 8u * 4u, group, 0u, strip);
    }
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let flat = flat_group(workgroup, workgroups);
    let flat_m = flat / p.tiles_n;
    let group = min(flat_m / p.tiles_m, p.groups - 1u);
    let tile_column = flat % p.tiles_n * TILE_N;
    // Workgroups past the last, from folding the grid, get rows past the last and so store nothing. They cannot return:
    // cooperative matrices want uniform control flow.
    let tile_row = (flat_m - group * p.tiles_m) * TILE_M;
    let subgroup = lane / 32u;
    let sub_row = subgroup / SUBGROUPS_N * 32u;
    let sub_column = subgroup % SUBGROUPS_N * 32u;

    // This lane loads eight neighbouring k of every LOADED_ROWS-th row.
    let load_k = lane % 4u;
    let load_row = lane / 4u;
    var rows: array<RowX, LOADS_X>;
    var next_x: array<vec4<u32>, LOADS_X>;
    var next_w: array<vec4<u32>, LOADS_W>;
    for (var i = 0u; i < LOADS_X; i++) {
        rows[i] = row_x(tile_row + load_row + i * LOADED_ROWS, group);
        next_x[i] = load_x(rows[i], tap_x(load_k * 8u));
    }
    for (var i = 0u; i < LOADS_W; i++) {
        next_w[i] = load_w(tile_column + load_row + i * LOADED_ROWS, group, load_k * 8u);
    }

    var top_left = coop_mat16x16<f32, C>();
    var top_right = coop_mat16x16<f32, C>();
    var bottom_left = coop_mat16x16<f32, C>();
    var bottom_right = coop_mat16x16<f32, C>();
    for (var k = 0u; k < p.k; k += 32u) {
        for (var i = 0u; i < LOADS_X; i++) {
            let at = (load_row + i * LOADED_ROWS) * STRIDE + load_k * 2u;
            sh_x[at] = halves(next_x[i].xy);
            sh_x[at + 1u] = halves(next_x[i].zw);
        }
        for (var i = 0u; i < LOADS_W; i++) {
            let at = (load_row + i * LOADED_ROWS) * STRIDE + load_k * 2u;
            sh_w[at] = halves(next_w[i].xy);
            sh_w[at + 1u] = halves(next_w[i].zw);
        }
        workgroupBarrier();
        if k + 32u < p.k {
            let next_k = k + 32u + load_k * 8u;
            let tap = tap_x(next_k);
            for (var i = 0u; i < LOADS_X; i++) {
                next_x[i] = load_x(rows[i], tap);
            }
            for (var i = 0u; i < LOADS_W; i++) {
                next_w[i] = load_w(tile_column + load_row + i * LOADED_ROWS, group, next_k);
            }
        }
        for (var kk = 0u; kk < SLICE; kk += 4u) {
            let at_top = sub_row * STRIDE + kk;
            let at_bottom = (sub_row + 16u) * STRIDE + kk;
            let at_left = sub_column * STRIDE + kk;
            let at_right = (sub_column + 16u) * STRIDE + kk;
            let top = coopLoadT<coop_mat16x16<f16, A>>(&sh_x[at_top], STRIDE);
            let bottom = coopLoadT<coop_mat16x16<f16, A>>(&sh_x[at_bottom], STRIDE);
            let left = coopLoad<coop_mat16x16<f16, B>>(&sh_w[at_left], STRIDE);
            let right = coopLoad<coop_mat16x16<f16, B>>(&sh_w[at_right], STRIDE);
            top_left = coopMultiplyAdd(top, left, top_left);
            bottom_left = coopMultiplyAdd(bottom, left, bottom_left);
            top_right = coopMultiplyAdd(top, right, top_right);
            bottom_right = coopMultiplyAdd(bottom, right, bottom_right);
        }
        workgroupBarrier();
    }

    let row = tile_row + sub_row;
    let column = tile_column + sub_column;
    let at = subgroup * STRIP;
    let at_half = at + 16u;
    coopStoreT(top_left, &sh_y[at], 32u);
    coopStoreT(top_right, &sh_y[at_half], 32u);
    workgroupBarrier();
    store_strip(subgroup, lane % 32u, row, column, group);
    workgroupBarrier();
    coopStoreT(bottom_left, &sh_y[at], 32u);
    coopStoreT(bottom_right, &sh_y[at_half], 32u);
    workgroupBarrier();
    store_strip(subgroup, lane % 32u, row + 16u, column, group);
}
