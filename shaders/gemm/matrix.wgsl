#import common/index.wgsl

// y[m, n] = epilogue(sum over k of x[m, k] * w[n, k]) on cooperative matrices: f16 operands, f32 sums.
// A workgroup computes TILE_M x TILE_N results. Its subgroups (32 lanes) have 32 x 32 of them each, as four blocks of 16 x 16, and
// where that leaves some, each has its SHARE of every slice of k: products of few tiles keep a device busy that way. Their sums
// meet in workgroup memory, in their order. While one slice of k is multiplied, the next travels into registers (slices.wgsl).
// The blocks are written out: drivers leave arrays of matrices in memory instead of registers (measured, a factor of two).
// Results pass through workgroup memory: only there are their rows and columns known, which the epilogue needs.

const SUBGROUPS_N = TILE_N / 32u;
const SUBGROUPS_K = LANES * 32u / (TILE_M * TILE_N);
const SHARE = SLICE_K / SUBGROUPS_K;
// Of sums, in vectors of four, the rows padded by one: a strip has 16 rows.
const STRIDE_Y = 9u;
const STRIP = 16u * STRIDE_Y;
const STORES = TILE_M * TILE_N / 8u / LANES;

var<workgroup> sh_y: array<vec4<f32>, STRIP * LANES / 32u>;
var<private> residuals: array<vec4<f32>, STORES>;

// Row and column in the tile of the vectors of results that a lane stores: in the upper half of each 32 x 32.
fn place_y(slot: u32) -> vec2<u32> {
    let block = slot / 128u;
    return vec2<u32>(block / SUBGROUPS_N * 32u + slot % 128u / 8u, block % SUBGROUPS_N * 32u + slot % 8u * 4u);
}

// All at once, before anything is stored: a compiler cannot move loads before stores that may be to the same place.
fn fetch_residuals(lane: u32, row: u32, column: u32, group: u32, split: u32) {
    for (var i = 0u; i < STORES; i++) {
        let place = place_y(lane + i * LANES);
        residuals[i] = residual_of(row + place.x, column + place.y, group, split);
    }
}

fn store_strips(lane: u32, row: u32, column: u32, group: u32, split: u32) {
    for (var i = 0u; i < STORES; i++) {
        let slot = lane + i * LANES;
        let at = slot / 128u * SUBGROUPS_K * STRIP + slot % 128u / 8u * STRIDE_Y + slot % 8u;
        var sums = sh_y[at];
        for (var j = 1u; j < SUBGROUPS_K; j++) {
            sums += sh_y[at + j * STRIP];
        }
        let place = place_y(slot);
        store_y(row + place.x, column + place.y, group, split, sums, residuals[i]);
    }
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let flat = flat_group(workgroup, workgroups);
    let tile_column = flat % p.tiles_n * TILE_N;
    let flat_m = flat / p.tiles_n;
    let group_and_split = flat_m / p.tiles_m;
    let group = group_and_split % p.groups;
    let split = group_and_split / p.groups;
    // Workgroups past the last, from folding the grid, have rows past the last, so that they store nothing. They cannot return:
    // cooperative matrices want uniform control flow.
    let tile_row = select(p.m, (flat_m - group_and_split * p.tiles_m) * TILE_M, split < p.splits);
    let first_k = min(split * p.split_k, k_of(group));
    let last_k = min(first_k + p.split_k, k_of(group));
    let subgroup = lane / 32u;
    let block = subgroup / SUBGROUPS_K;
    let sub_row = block / SUBGROUPS_N * 32u;
    let sub_column = block % SUBGROUPS_N * 32u;
    let sub_k = subgroup % SUBGROUPS_K * SHARE;

    find_rows(lane, tile_row, tile_column, group);
    if first_k < last_k {
        fetch_slice(lane, first_k, group);
    }
    var top_left = coop_mat16x16<f32, C>();
    var top_right = coop_mat16x16<f32, C>();
    var bottom_left = coop_mat16x16<f32, C>();
    var bottom_right = coop_mat16x16<f32, C>();
    for (var k = first_k; k < last_k; k += SLICE_K) {
        stage_slice(lane);
        workgroupBarrier();
        if k + SLICE_K < last_k {
            fetch_slice(lane, k + SLICE_K, group);
        }
        for (var kk = sub_k; kk < sub_k + SHARE; kk += 16u) {
            let at_top = place_x(sub_row, kk);
            let at_bottom = place_x(sub_row + 16u, kk);
            let at_left = place_w(sub_column, kk);
            let at_right = place_w(sub_column + 16u, kk);
            var top: coop_mat16x16<f16, A>;
            var bottom: coop_mat16x16<f16, A>;
            var left: coop_mat16x16<f16, B>;
            var right: coop_mat16x16<f16, B>;
            if X_ACROSS {
                top = coopLoad<coop_mat16x16<f16, A>>(&sh_x[at_top], STRIDE_X);
                bottom = coopLoad<coop_mat16x16<f16, A>>(&sh_x[at_bottom], STRIDE_X);
            } else {
                top = coopLoadT<coop_mat16x16<f16, A>>(&sh_x[at_top], STRIDE_X);
                bottom = coopLoadT<coop_mat16x16<f16, A>>(&sh_x[at_bottom], STRIDE_X);
            }
            if W_ACROSS {
                left = coopLoadT<coop_mat16x16<f16, B>>(&sh_w[at_left], STRIDE_W);
                right = coopLoadT<coop_mat16x16<f16, B>>(&sh_w[at_right], STRIDE_W);
            } else {
                left = coopLoad<coop_mat16x16<f16, B>>(&sh_w[at_left], STRIDE_W);
                right = coopLoad<coop_mat16x16<f16, B>>(&sh_w[at_right], STRIDE_W);
            }
            top_left = coopMultiplyAdd(top, left, top_left);
            bottom_left = coopMultiplyAdd(bottom, left, bottom_left);
            top_right = coopMultiplyAdd(top, right, top_right);
            bottom_right = coopMultiplyAdd(bottom, right, bottom_right);
        }
        workgroupBarrier();
    }

    let at = subgroup * STRIP;
    let at_half = at + 4u;
    fetch_residuals(lane, tile_row, tile_column, group, split);
    coopStoreT(top_left, &sh_y[at], STRIDE_Y);
    coopStoreT(top_right, &sh_y[at_half], STRIDE_Y);
    workgroupBarrier();
    store_strips(lane, tile_row, tile_column, group, split);
    workgroupBarrier();
    fetch_residuals(lane, tile_row + 16u, tile_column, group, split);
    coopStoreT(bottom_left, &sh_y[at], STRIDE_Y);
    coopStoreT(bottom_right, &sh_y[at_half], STRIDE_Y);
    workgroupBarrier();
    store_strips(lane, tile_row + 16u, tile_column, group, split);
}
