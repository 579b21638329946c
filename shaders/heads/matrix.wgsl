#import common/index.wgsl

// y[m, n] = factor * sum over k of left[m, k] * right[n, k], for every head of every image, on cooperative matrices: halves, and
// f32 sums.
//
// A workgroup computes TILE_M x TILE_N results. Its subgroups (32 lanes) have 32 x 32 of them each, as four blocks of 16 x 16, and
// where that leaves some, each has its SHARE of every slice of k: a head's mix has few channels, long sums, and few tiles to
// keep a device busy with. Slices travel as those of a GEMM (gemm/slices.wgsl). The subgroups' sums meet in workgroup memory, in their
// order, a block of 16 x 16 of each at a time: the less memory, the more workgroups a processor takes.

const SUBGROUPS_N = TILE_N / 32u;
const SUBGROUPS_K = LANES * 32u / (TILE_M * TILE_N);
const SHARE = SLICE_K / SUBGROUPS_K;
// Of the sums of a block: vectors of WIDTH in a row, and in all.
const STRIDE_Y = 16u / WIDTH;
const STRIP = 16u * STRIDE_Y;
// Vectors of the blocks that the tile's subgroups have results of.
const RESULTS = TILE_M * TILE_N / 4u / WIDTH;

// The sums of all subgroups for a vector of results.
fn total_of(at: u32) -> vec4<f32> {
    var total = sums_at(at);
    for (var i = 1u; i < SUBGROUPS_K; i++) {
        total += sums_at(at + i * STRIP);
    }
    return total;
}

// Stores the blocks whose sums are there, at a row and a column of each 32 x 32.
fn store_results(lane: u32, group: u32, first_row: u32, first_column: u32) {
    workgroupBarrier();
    let image = group / p.heads;
    let head = group % p.heads;
    let y_start = image * p.y_batch + head * p.y_head;
    for (var slot = lane; slot < RESULTS; slot += LANES) {
        let tile = slot / STRIP;
        let row = first_row + tile / SUBGROUPS_N * 32u + slot % STRIP / STRIDE_Y;
        let column = first_column + tile % SUBGROUPS_N * 32u + slot % STRIDE_Y * WIDTH;
        if row < p.m && column < p.columns_y {
            let total = total_of(tile * SUBGROUPS_K * STRIP + slot % STRIP);
            let at = y_start + row * p.y_row + column;
            write_y(at, finished(total, image, row, head, column, at), WIDTH);
        }
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
    let groups = p.batch * p.heads;
    // Workgroups past the last, from folding the grid, have rows past the last, so that they store nothing. They cannot return:
    // cooperative matrices want uniform control flow.
    let group = min(flat_m / p.tiles_m, groups - 1u);
    let tile_row = select(p.m, flat_m % p.tiles_m * TILE_M, flat_m < groups * p.tiles_m);
    let subgroup = lane / 32u;
    let tile = subgroup / SUBGROUPS_K;
    let sub_row = tile / SUBGROUPS_N * 32u;
    let sub_column = tile % SUBGROUPS_N * 32u;
    let sub_k = subgroup % SUBGROUPS_K * SHARE;

    prepare(group % p.heads);
    find_rows(lane, tile_row, tile_column, group);
    fetch_slice(lane, 0u, group);
    var top_left = coop_mat16x16<f32, C>();
    var top_right = coop_mat16x16<f32, C>();
    var bottom_left = coop_mat16x16<f32, C>();
    var bottom_right = coop_mat16x16<f32, C>();
    for (var k = 0u; k < p.k; k += SLICE_K) {
        stage_slice(lane);
        workgroupBarrier();
        if k + SLICE_K < p.k {
            fetch_slice(lane, k + SLICE_K, group);
        }
        for (var kk = sub_k; kk < sub_k + SHARE; kk += 16u) {
            let at_top = place_x(sub_row, kk);
            let at_bottom = place_x(sub_row + 16u, kk);
            let at_left = place_w(sub_column, kk);
            let at_right = place_w(sub_column + 16u, kk);
            var x_top: coop_mat16x16<f16, A>;
            var x_bottom: coop_mat16x16<f16, A>;
            var w_left: coop_mat16x16<f16, B>;
            var w_right: coop_mat16x16<f16, B>;
            if X_ACROSS {
                x_top = coopLoad<coop_mat16x16<f16, A>>(&sh_x[at_top], STRIDE_X);
                x_bottom = coopLoad<coop_mat16x16<f16, A>>(&sh_x[at_bottom], STRIDE_X);
            } else {
                x_top = coopLoadT<coop_mat16x16<f16, A>>(&sh_x[at_top], STRIDE_X);
                x_bottom = coopLoadT<coop_mat16x16<f16, A>>(&sh_x[at_bottom], STRIDE_X);
            }
            if W_ACROSS {
                w_left = coopLoadT<coop_mat16x16<f16, B>>(&sh_w[at_left], STRIDE_W);
                w_right = coopLoadT<coop_mat16x16<f16, B>>(&sh_w[at_right], STRIDE_W);
            } else {
                w_left = coopLoad<coop_mat16x16<f16, B>>(&sh_w[at_left], STRIDE_W);
                w_right = coopLoad<coop_mat16x16<f16, B>>(&sh_w[at_right], STRIDE_W);
            }
            top_left = coopMultiplyAdd(x_top, w_left, top_left);
            bottom_left = coopMultiplyAdd(x_bottom, w_left, bottom_left);
            top_right = coopMultiplyAdd(x_top, w_right, top_right);
            bottom_right = coopMultiplyAdd(x_bottom, w_right, bottom_right);
        }
        workgroupBarrier();
    }
    let at = subgroup * STRIP;
    coopStoreT(top_left, &sh_y[at], STRIDE_Y);
    store_results(lane, group, tile_row, tile_column);
    coopStoreT(top_right, &sh_y[at], STRIDE_Y);
    store_results(lane, group, tile_row, tile_column + 16u);
    coopStoreT(bottom_left, &sh_y[at], STRIDE_Y);
    store_results(lane, group, tile_row + 16u, tile_column);
    coopStoreT(bottom_right, &sh_y[at], STRIDE_Y);
    store_results(lane, group, tile_row + 16u, tile_column + 16u);
}
