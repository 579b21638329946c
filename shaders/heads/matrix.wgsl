#import common/index.wgsl

// y[m, n] = factor * sum over k of left[m, k] * right[n, k], for every head of every image, on cooperative matrices: halves, and
// f32 sums.
//
// A workgroup computes TILE_M x TILE_N results. Its subgroups (32 lanes) have 32 x 32 of them each, as four blocks of 16 x 16, and
// where that leaves some, each has its SHARE of every slice of k: a head's mix has few channels, long sums, and few tiles to
// keep a device busy with. The subgroups' sums meet in workgroup memory, in their order. Slices travel as those of a GEMM
// (gemm/slices.wgsl), and the blocks are written out as there.

const SUBGROUPS_N = TILE_N / 32u;
const SUBGROUPS_K = LANES * 32u / (TILE_M * TILE_N);
const SHARE = SLICE_K / SUBGROUPS_K;
// Of sums, in vectors of WIDTH, the rows padded by four.
const STRIDE_Y = 36u / WIDTH;
const STRIP = 32u * STRIDE_Y;
// Vectors of results in a row of the tile, and for each lane.
const VECTORS = TILE_N / WIDTH;
const RESULTS = TILE_M * VECTORS / LANES;

// The sums of all subgroups for a vector of results.
fn total_of(row: u32, column: u32) -> vec4<f32> {
    let tile = row / 32u * SUBGROUPS_N + column / 32u;
    let at = tile * SUBGROUPS_K * STRIP + row % 32u * STRIDE_Y + column % 32u / WIDTH;
    var total = sums_at(at);
    for (var i = 1u; i < SUBGROUPS_K; i++) {
        total += sums_at(at + i * STRIP);
    }
    return total;
}

fn store_results(lane: u32, group: u32, tile_row: u32, tile_column: u32) {
    let image = group / p.heads;
    let head = group % p.heads;
    let y_start = image * p.y_batch + head * p.y_head;
    for (var i = 0u; i < RESULTS; i++) {
        let slot = lane + i * LANES;
        let row = tile_row + slot / VECTORS;
        let column = tile_column + slot % VECTORS * WIDTH;
        if row < p.m && column < p.columns_y {
            let total = total_of(slot / VECTORS, slot % VECTORS * WIDTH);
            let at = y_start + row * p.y_row + column;
            write_y(at, finished(total, image, row, head, column, at), WIDTH);
        }
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
    let at_right_half = at + 16u / WIDTH;
    let at_lower = at + 16u * STRIDE_Y;
    let at_lower_right = at_lower + 16u / WIDTH;
    coopStoreT(top_left, &sh_y[at], STRIDE_Y);
    coopStoreT(top_right, &sh_y[at_right_half], STRIDE_Y);
    coopStoreT(bottom_left, &sh_y[at_lower], STRIDE_Y);
    coopStoreT(bottom_right, &sh_y[at_lower_right], STRIDE_Y);
    workgroupBarrier();
    store_results(lane, group, tile_row, tile_column);
}
