#import common/index.wgsl

// y[m, n] = epilogue(sum over k of x[m, k] * w[n, k]) on cooperative matrices, as matrix.wgsl with larger blocks: each subgroup
// computes 64 x 32 results as eight blocks of 16 x 16, so that fewer blocks are loaded from workgroup memory for each product.
// Results leave in strips of 16 x STRIP_N: 32 columns, or 16 where long slices need the room.
// Why not 64 x 64: half as many subgroups fit, and nothing hides their waiting (measured: slower in all but the purest products).

const SUBGROUPS_N = TILE_N / 32u;
// Of results, in vectors of four, the rows padded by one.
const VECTORS = STRIP_N / 4u;
const STRIDE_Y = VECTORS + 1u;
const STRIP = 16u * STRIDE_Y;
// Rows that a subgroup stores at once.
const ROWS_Y = 32u / VECTORS;
const STORES = 16u / ROWS_Y;

var<workgroup> sh_y: array<vec4<f32>, STRIP * LANES / 32u>;
var<private> residuals: array<vec4<f32>, STORES>;

// All at once, before anything is stored: a compiler cannot move loads before stores that may be to the same place.
fn fetch_residuals(lane: u32, row: u32, column: u32, group: u32, split: u32) {
    for (var i = 0u; i < STORES; i++) {
        residuals[i] = residual_of(row + lane / VECTORS + i * ROWS_Y, column + lane % VECTORS * 4u, group, split);
    }
}

fn store_strip(subgroup: u32, lane: u32, row: u32, column: u32, group: u32, split: u32) {
    workgroupBarrier();
    for (var i = 0u; i < STORES; i++) {
        let sums = sh_y[subgroup * STRIP + (lane / VECTORS + i * ROWS_Y) * STRIDE_Y + lane % VECTORS];
        store_y(row + lane / VECTORS + i * ROWS_Y, column + lane % VECTORS * 4u, group, split, sums, residuals[i]);
    }
    workgroupBarrier();
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
    let sub_row = subgroup / SUBGROUPS_N * 64u;
    let sub_column = subgroup % SUBGROUPS_N * 32u;

    find_rows(lane, tile_row, tile_column, group);
    if first_k < last_k {
        fetch_slice(lane, first_k, group);
    }
    var y00 = coop_mat16x16<f32, C>();
    var y01 = coop_mat16x16<f32, C>();
    var y10 = coop_mat16x16<f32, C>();
    var y11 = coop_mat16x16<f32, C>();
    var y20 = coop_mat16x16<f32, C>();
    var y21 = coop_mat16x16<f32, C>();
    var y30 = coop_mat16x16<f32, C>();
    var y31 = coop_mat16x16<f32, C>();
    for (var k = first_k; k < last_k; k += SLICE_K) {
        stage_slice(lane);
        workgroupBarrier();
        if k + SLICE_K < last_k {
            fetch_slice(lane, k + SLICE_K, group);
        }
        for (var kk = 0u; kk < SLICE_K; kk += 16u) {
            let at_x0 = place_x(sub_row + 0u, kk);
            let at_x1 = place_x(sub_row + 16u, kk);
            let at_x2 = place_x(sub_row + 32u, kk);
            let at_x3 = place_x(sub_row + 48u, kk);
            let at_w0 = place_w(sub_column + 0u, kk);
            let at_w1 = place_w(sub_column + 16u, kk);
            var x0: coop_mat16x16<f16, A>;
            var x1: coop_mat16x16<f16, A>;
            var x2: coop_mat16x16<f16, A>;
            var x3: coop_mat16x16<f16, A>;
            if X_ACROSS {
                x0 = coopLoad<coop_mat16x16<f16, A>>(&sh_x[at_x0], STRIDE_X);
                x1 = coopLoad<coop_mat16x16<f16, A>>(&sh_x[at_x1], STRIDE_X);
                x2 = coopLoad<coop_mat16x16<f16, A>>(&sh_x[at_x2], STRIDE_X);
                x3 = coopLoad<coop_mat16x16<f16, A>>(&sh_x[at_x3], STRIDE_X);
            } else {
                x0 = coopLoadT<coop_mat16x16<f16, A>>(&sh_x[at_x0], STRIDE_X);
                x1 = coopLoadT<coop_mat16x16<f16, A>>(&sh_x[at_x1], STRIDE_X);
                x2 = coopLoadT<coop_mat16x16<f16, A>>(&sh_x[at_x2], STRIDE_X);
                x3 = coopLoadT<coop_mat16x16<f16, A>>(&sh_x[at_x3], STRIDE_X);
            }
            var w: coop_mat16x16<f16, B>;
            if W_ACROSS {
                w = coopLoadT<coop_mat16x16<f16, B>>(&sh_w[at_w0], STRIDE_W);
            } else {
                w = coopLoad<coop_mat16x16<f16, B>>(&sh_w[at_w0], STRIDE_W);
            }
            y00 = coopMultiplyAdd(x0, w, y00);
            y10 = coopMultiplyAdd(x1, w, y10);
            y20 = coopMultiplyAdd(x2, w, y20);
            y30 = coopMultiplyAdd(x3, w, y30);
            if W_ACROSS {
                w = coopLoadT<coop_mat16x16<f16, B>>(&sh_w[at_w1], STRIDE_W);
            } else {
                w = coopLoad<coop_mat16x16<f16, B>>(&sh_w[at_w1], STRIDE_W);
            }
            y01 = coopMultiplyAdd(x0, w, y01);
            y11 = coopMultiplyAdd(x1, w, y11);
            y21 = coopMultiplyAdd(x2, w, y21);
            y31 = coopMultiplyAdd(x3, w, y31);
        }
        workgroupBarrier();
    }

    let row = tile_row + sub_row;
    let column = tile_column + sub_column;
    let at0 = subgroup * STRIP;
    let at1 = at0 + 4u;
    if STRIP_N == 32u {
        fetch_residuals(lane % 32u, row, column, group, split);
        coopStoreT(y00, &sh_y[at0], STRIDE_Y);
        coopStoreT(y01, &sh_y[at1], STRIDE_Y);
        store_strip(subgroup, lane % 32u, row, column, group, split);
        fetch_residuals(lane % 32u, row + 16u, column, group, split);
        coopStoreT(y10, &sh_y[at0], STRIDE_Y);
        coopStoreT(y11, &sh_y[at1], STRIDE_Y);
        store_strip(subgroup, lane % 32u, row + 16u, column, group, split);
        fetch_residuals(lane % 32u, row + 32u, column, group, split);
        coopStoreT(y20, &sh_y[at0], STRIDE_Y);
        coopStoreT(y21, &sh_y[at1], STRIDE_Y);
        store_strip(subgroup, lane % 32u, row + 32u, column, group, split);
        fetch_residuals(lane % 32u, row + 48u, column, group, split);
        coopStoreT(y30, &sh_y[at0], STRIDE_Y);
        coopStoreT(y31, &sh_y[at1], STRIDE_Y);
        store_strip(subgroup, lane % 32u, row + 48u, column, group, split);
    } else {
        fetch_residuals(lane % 32u, row, column, group, split);
        coopStoreT(y00, &sh_y[at0], STRIDE_Y);
        store_strip(subgroup, lane % 32u, row, column, group, split);
        fetch_residuals(lane % 32u, row, column + 16u, group, split);
        coopStoreT(y01, &sh_y[at0], STRIDE_Y);
        store_strip(subgroup, lane % 32u, row, column + 16u, group, split);
        fetch_residuals(lane % 32u, row + 16u, column, group, split);
        coopStoreT(y10, &sh_y[at0], STRIDE_Y);
        store_strip(subgroup, lane % 32u, row + 16u, column, group, split);
        fetch_residuals(lane % 32u, row + 16u, column + 16u, group, split);
        coopStoreT(y11, &sh_y[at0], STRIDE_Y);
        store_strip(subgroup, lane % 32u, row + 16u, column + 16u, group, split);
        fetch_residuals(lane % 32u, row + 32u, column, group, split);
        coopStoreT(y20, &sh_y[at0], STRIDE_Y);
        store_strip(subgroup, lane % 32u, row + 32u, column, group, split);
        fetch_residuals(lane % 32u, row + 32u, column + 16u, group, split);
        coopStoreT(y21, &sh_y[at0], STRIDE_Y);
        store_strip(subgroup, lane % 32u, row + 32u, column + 16u, group, split);
        fetch_residuals(lane % 32u, row + 48u, column, group, split);
        coopStoreT(y30, &sh_y[at0], STRIDE_Y);
        store_strip(subgroup, lane % 32u, row + 48u, column, group, split);
        fetch_residuals(lane % 32u, row + 48u, column + 16u, group, split);
        coopStoreT(y31, &sh_y[at0], STRIDE_Y);
        store_strip(subgroup, lane % 32u, row + 48u, column + 16u, group, split);
    }
}
