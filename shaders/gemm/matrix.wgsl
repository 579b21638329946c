#import common/index.wgsl

// y[m, n] = epilogue(sum over k of x[m, k] * w[n, k]) on cooperative matrices: f16 operands, f32 sums.
// A workgroup computes TILE_M x TILE_N results; each of its subgroups (32 lanes) computes 32 x 32 of them as four blocks of
// 16 x 16. While one slice of k is multiplied, the next travels into registers (slices.wgsl).
// The blocks are written out: drivers leave arrays of matrices in memory instead of registers (measured, a factor of two).
// Results pass through workgroup memory: only there are their rows and columns known, which the epilogue needs.

const SUBGROUPS_N = TILE_N / 32u;
const STRIP = 16u * 32u;

var<workgroup> sh_y: array<f32, STRIP * LANES / 32u>;

fn store_strip(subgroup: u32, lane: u32, row: u32, column: u32, group: u32, split: u32) {
    for (var i = lane; i < STRIP / 4u; i += 32u) {
        let at = subgroup * STRIP + i * 4u;
        let strip = vec4<f32>(sh_y[at], sh_y[at + 1u], sh_y[at + 2u], sh_y[at + 3u]);
        store_y(row + i / 8u, column + i % 8u * 4u, group, split, strip);
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
    // Workgroups past the last, from folding the grid, are past the last split: they have no k, and rows past the last, so that
    // they store nothing. They cannot return: cooperative matrices want uniform control flow.
    let exists = split == 0u || split * p.split_k < k_of(group);
    let tile_row = select(p.m, (flat_m - group_and_split * p.tiles_m) * TILE_M, exists);
    let first_k = min(split * p.split_k, k_of(group));
    let last_k = min(first_k + p.split_k, k_of(group));
    let subgroup = lane / 32u;
    let sub_row = subgroup / SUBGROUPS_N * 32u;
    let sub_column = subgroup % SUBGROUPS_N * 32u;

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
        for (var kk = 0u; kk < SLICE_K; kk += 16u) {
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

    let row = tile_row + sub_row;
    let column = tile_column + sub_column;
    let at = subgroup * STRIP;
    let at_half = at + 16u;
    coopStoreT(top_left, &sh_y[at], 32u);
    coopStoreT(top_right, &sh_y[at_half], 32u);
    workgroupBarrier();
    store_strip(subgroup, lane % 32u, row, column, group, split);
    workgroupBarrier();
    coopStoreT(bottom_left, &sh_y[at], 32u);
    coopStoreT(bottom_right, &sh_y[at_half], 32u);
    workgroupBarrier();
    store_strip(subgroup, lane % 32u, row + 16u, column, group, split);
}
