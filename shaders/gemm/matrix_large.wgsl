#import common/index.wgsl

// y[m, n] = epilogue(sum over k of x[m, k] * w[n, k]) on cooperative matrices, as matrix.wgsl with larger blocks: each subgroup
// computes 64 x 64 results as sixteen blocks of 16 x 16, so that a block loaded from workgroup memory serves four products
// instead of two. It wants many results: half as many workgroups keep the device busy, each with four times the work.

const SUBGROUPS_N = TILE_N / 64u;
const STRIP = 16u * 64u;

var<workgroup> sh_y: array<f32, STRIP * LANES / 32u>;

fn store_strip(subgroup: u32, lane: u32, row: u32, column: u32, group: u32, split: u32) {
    for (var i = lane; i < STRIP / 4u; i += 32u) {
        let at = subgroup * STRIP + i * 4u;
        let strip = vec4<f32>(sh_y[at], sh_y[at + 1u], sh_y[at + 2u], sh_y[at + 3u]);
        store_y(row + i / 16u, column + i % 16u * 4u, group, split, strip);
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
    let sub_row = subgroup / SUBGROUPS_N * 64u;
    let sub_column = subgroup % SUBGROUPS_N * 64u;

    find_rows(lane, tile_row, tile_column, group);
    if first_k < last_k {
        fetch_slice(lane, first_k, group);
    }
    var y00 = coop_mat16x16<f32, C>();
    var y01 = coop_mat16x16<f32, C>();
    var y02 = coop_mat16x16<f32, C>();
    var y03 = coop_mat16x16<f32, C>();
    var y10 = coop_mat16x16<f32, C>();
    var y11 = coop_mat16x16<f32, C>();
    var y12 = coop_mat16x16<f32, C>();
    var y13 = coop_mat16x16<f32, C>();
    var y20 = coop_mat16x16<f32, C>();
    var y21 = coop_mat16x16<f32, C>();
    var y22 = coop_mat16x16<f32, C>();
    var y23 = coop_mat16x16<f32, C>();
    var y30 = coop_mat16x16<f32, C>();
    var y31 = coop_mat16x16<f32, C>();
    var y32 = coop_mat16x16<f32, C>();
    var y33 = coop_mat16x16<f32, C>();
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
            let at_w2 = place_w(sub_column + 32u, kk);
            let at_w3 = place_w(sub_column + 48u, kk);
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
            if W_ACROSS {
                w = coopLoadT<coop_mat16x16<f16, B>>(&sh_w[at_w2], STRIDE_W);
            } else {
                w = coopLoad<coop_mat16x16<f16, B>>(&sh_w[at_w2], STRIDE_W);
            }
            y02 = coopMultiplyAdd(x0, w, y02);
            y12 = coopMultiplyAdd(x1, w, y12);
            y22 = coopMultiplyAdd(x2, w, y22);
            y32 = coopMultiplyAdd(x3, w, y32);
            if W_ACROSS {
                w = coopLoadT<coop_mat16x16<f16, B>>(&sh_w[at_w3], STRIDE_W);
            } else {
                w = coopLoad<coop_mat16x16<f16, B>>(&sh_w[at_w3], STRIDE_W);
            }
            y03 = coopMultiplyAdd(x0, w, y03);
            y13 = coopMultiplyAdd(x1, w, y13);
            y23 = coopMultiplyAdd(x2, w, y23);
            y33 = coopMultiplyAdd(x3, w, y33);
        }
        workgroupBarrier();
    }

    let row = tile_row + sub_row;
    let column = tile_column + sub_column;
    let at0 = subgroup * STRIP;
    let at1 = at0 + 16u;
    let at2 = at0 + 32u;
    let at3 = at0 + 48u;
    coopStoreT(y00, &sh_y[at0], 64u);
    coopStoreT(y01, &sh_y[at1], 64u);
    coopStoreT(y02, &sh_y[at2], 64u);
    coopStoreT(y03, &sh_y[at3], 64u);
    workgroupBarrier();
    store_strip(subgroup, lane % 32u, row, column, group, split);
    workgroupBarrier();
    coopStoreT(y10, &sh_y[at0], 64u);
    coopStoreT(y11, &sh_y[at1], 64u);
    coopStoreT(y12, &sh_y[at2], 64u);
    coopStoreT(y13, &sh_y[at3], 64u);
    workgroupBarrier();
    store_strip(subgroup, lane % 32u, row + 16u, column, group, split);
    workgroupBarrier();
    coopStoreT(y20, &sh_y[at0], 64u);
    coopStoreT(y21, &sh_y[at1], 64u);
    coopStoreT(y22, &sh_y[at2], 64u);
    coopStoreT(y23, &sh_y[at3], 64u);
    workgroupBarrier();
    store_strip(subgroup, lane % 32u, row + 32u, column, group, split);
    workgroupBarrier();
    coopStoreT(y30, &sh_y[at0], 64u);
    coopStoreT(y31, &sh_y[at1], 64u);
    coopStoreT(y32, &sh_y[at2], 64u);
    coopStoreT(y33, &sh_y[at3], 64u);
    workgroupBarrier();
    store_strip(subgroup, lane % 32u, row + 48u, column, group, split);
}
