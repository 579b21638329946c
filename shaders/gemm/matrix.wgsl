#import common/index.wgsl

// y[m, n] = epilogue(sum over k of x[m, k] * w[n, k]) on cooperative matrices: f16 operands, f32 sums.
// A workgroup computes TILE_M x TILE_N results. Its subgroups (32 lanes) have SUB_M x SUB_N of them each, 32 or 64 in both directions,
// as blocks of 16 x 16; where that leaves some subgroups, each has its SHARE of every slice of k: products of few tiles keep a device
// busy that way. Their sums meet in workgroup memory, in their order. While one slice of k is multiplied, the next travels into
// registers (slices.wgsl).
// The blocks are written out: drivers leave arrays of matrices in memory instead of registers (measured, a factor of two).
// Results pass through workgroup memory, a block of each subgroup at a time: only there are their rows and columns known, which the
// epilogue needs. More at a time would leave a processor room for fewer workgroups (matrix.rs).

const TALL = SUB_M > 32u;
const WIDE = SUB_N > 32u;
// Blocks in a row of a subgroup's results.
const BLOCKS = SUB_N / 16u;
const SUBGROUPS_N = TILE_N / SUB_N;
const SUBGROUPS_K = LANES / 32u * (SUB_M * SUB_N) / (TILE_M * TILE_N);
const SHARE = SLICE_K / SUBGROUPS_K;
// Of a block, in vectors of four.
const STRIDE_Y = 4u;
const BLOCK = 16u * STRIDE_Y;
// Vectors of results of a round, in which each subgroup that does not share has a block, and those that a lane stores.
const SLOTS = TILE_M * TILE_N / (SUB_M * SUB_N) * BLOCK;
const STORES = (SLOTS + LANES - 1u) / LANES;

var<workgroup> sh_y: array<vec4<f32>, BLOCK * LANES / 32u>;
// Of two rows of blocks: while one is stored, that of the next travels.
var<private> residuals: array<vec4<f32>, 2u * BLOCKS * STORES>;

// Row and column in the tile of a vector of results, of the first block of each subgroup.
fn place_y(slot: u32) -> vec2<u32> {
    let subgroup = slot / BLOCK;
    let row = slot % BLOCK / STRIDE_Y;
    return vec2<u32>(subgroup / SUBGROUPS_N * SUB_M + row, subgroup % SUBGROUPS_N * SUB_N + slot % STRIDE_Y * 4u);
}

fn is_slot(slot: u32) -> bool {
    return SLOTS % LANES == 0u || slot < SLOTS;
}

// For a row of blocks, all at once and before anything is stored: a compiler cannot move loads before stores that may be to the same
// place.
fn fetch_residuals(i: u32, lane: u32, tile: Tile) {
    for (var j = 0u; j < BLOCKS; j++) {
        for (var s = 0u; s < STORES; s++) {
            let place = place_y(lane + s * LANES);
            if is_slot(lane + s * LANES) {
                let at = (i % 2u * BLOCKS + j) * STORES + s;
                residuals[at] = residual_of(tile.row + i * 16u + place.x, tile.column + j * 16u + place.y, tile.group, tile.split);
            }
        }
    }
}

// Stores block (i, j) of every subgroup.
fn store_blocks(i: u32, j: u32, lane: u32, tile: Tile) {
    workgroupBarrier();
    for (var s = 0u; s < STORES; s++) {
        let slot = lane + s * LANES;
        if is_slot(slot) {
            let at = slot / BLOCK * SUBGROUPS_K * BLOCK + slot % BLOCK;
            var sums = sh_y[at];
            for (var share = 1u; share < SUBGROUPS_K; share++) {
                sums += sh_y[at + share * BLOCK];
            }
            let place = place_y(slot);
            let added = residuals[(i % 2u * BLOCKS + j) * STORES + s];
            store_y(tile.row + i * 16u + place.x, tile.column + j * 16u + place.y, tile.group, tile.split, sums, added);
        }
    }
    workgroupBarrier();
}

fn block_x(row: u32, k: u32) -> coop_mat16x16<f16, A> {
    let at = place_x(row, k);
    if X_ACROSS {
        return coopLoad<coop_mat16x16<f16, A>>(&sh_x[at], STRIDE_X);
    }
    return coopLoadT<coop_mat16x16<f16, A>>(&sh_x[at], STRIDE_X);
}

fn block_w(column: u32, k: u32) -> coop_mat16x16<f16, B> {
    let at = place_w(column, k);
    if W_ACROSS {
        return coopLoadT<coop_mat16x16<f16, B>>(&sh_w[at], STRIDE_W);
    }
    return coopLoad<coop_mat16x16<f16, B>>(&sh_w[at], STRIDE_W);
}

// What a workgroup computes: where its results begin, and of which part of the sums.
struct Tile {
    row: u32,
    column: u32,
    group: u32,
    split: u32,
}

fn tile_of(flat: u32) -> Tile {
    let flat_m = flat / p.tiles_n;
    let group_and_split = flat_m / p.tiles_m;
    let split = group_and_split / p.groups;
    // Workgroups past the last, from folding the grid, have rows past the last, so that they store nothing. They cannot return:
    // cooperative matrices want uniform control flow.
    let row = select(p.m, (flat_m - group_and_split * p.tiles_m) * TILE_M, split < p.splits);
    return Tile(row, flat % p.tiles_n * TILE_N, group_and_split % p.groups, split);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = tile_of(flat_group(workgroup, workgroups));
    let first_k = min(tile.split * p.split_k, k_of(tile.group));
    let last_k = min(first_k + p.split_k, k_of(tile.group));
    let subgroup = lane / 32u;
    let sub_row = subgroup / SUBGROUPS_K / SUBGROUPS_N * SUB_M;
    let sub_column = subgroup / SUBGROUPS_K % SUBGROUPS_N * SUB_N;
    let sub_k = subgroup % SUBGROUPS_K * SHARE;

    find_rows(lane, tile.row, tile.column, tile.group);
    if first_k < last_k {
        fetch_slice(lane, first_k, tile.group);
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
            fetch_slice(lane, k + SLICE_K, tile.group);
        }
        for (var kk = sub_k; kk < sub_k + SHARE; kk += 16u) {
            let x0 = block_x(sub_row, kk);
            let x1 = block_x(sub_row + 16u, kk);
            var x2: coop_mat16x16<f16, A>;
            var x3: coop_mat16x16<f16, A>;
            if TALL {
                x2 = block_x(sub_row + 32u, kk);
                x3 = block_x(sub_row + 48u, kk);
            }
            var w = block_w(sub_column, kk);
            y00 = coopMultiplyAdd(x0, w, y00);
            y10 = coopMultiplyAdd(x1, w, y10);
            if TALL {
                y20 = coopMultiplyAdd(x2, w, y20);
                y30 = coopMultiplyAdd(x3, w, y30);
            }
            w = block_w(sub_column + 16u, kk);
            y01 = coopMultiplyAdd(x0, w, y01);
            y11 = coopMultiplyAdd(x1, w, y11);
            if TALL {
                y21 = coopMultiplyAdd(x2, w, y21);
                y31 = coopMultiplyAdd(x3, w, y31);
            }
            if WIDE {
                w = block_w(sub_column + 32u, kk);
                y02 = coopMultiplyAdd(x0, w, y02);
                y12 = coopMultiplyAdd(x1, w, y12);
                if TALL {
                    y22 = coopMultiplyAdd(x2, w, y22);
                    y32 = coopMultiplyAdd(x3, w, y32);
                }
                w = block_w(sub_column + 48u, kk);
                y03 = coopMultiplyAdd(x0, w, y03);
                y13 = coopMultiplyAdd(x1, w, y13);
                if TALL {
                    y23 = coopMultiplyAdd(x2, w, y23);
                    y33 = coopMultiplyAdd(x3, w, y33);
                }
            }
        }
        workgroupBarrier();
    }

    let at = subgroup * BLOCK;
    fetch_residuals(0u, lane, tile);
    fetch_residuals(1u, lane, tile);
    coopStoreT(y00, &sh_y[at], STRIDE_Y);
    store_blocks(0u, 0u, lane, tile);
    coopStoreT(y01, &sh_y[at], STRIDE_Y);
    store_blocks(0u, 1u, lane, tile);
    if WIDE {
        coopStoreT(y02, &sh_y[at], STRIDE_Y);
        store_blocks(0u, 2u, lane, tile);
        coopStoreT(y03, &sh_y[at], STRIDE_Y);
        store_blocks(0u, 3u, lane, tile);
    }
    if TALL {
        fetch_residuals(2u, lane, tile);
    }
    coopStoreT(y10, &sh_y[at], STRIDE_Y);
    store_blocks(1u, 0u, lane, tile);
    coopStoreT(y11, &sh_y[at], STRIDE_Y);
    store_blocks(1u, 1u, lane, tile);
    if WIDE {
        coopStoreT(y12, &sh_y[at], STRIDE_Y);
        store_blocks(1u, 2u, lane, tile);
        coopStoreT(y13, &sh_y[at], STRIDE_Y);
        store_blocks(1u, 3u, lane, tile);
    }
    if TALL {
        fetch_residuals(3u, lane, tile);
        coopStoreT(y20, &sh_y[at], STRIDE_Y);
        store_blocks(2u, 0u, lane, tile);
        coopStoreT(y21, &sh_y[at], STRIDE_Y);
        store_blocks(2u, 1u, lane, tile);
        if WIDE {
            coopStoreT(y22, &sh_y[at], STRIDE_Y);
            store_blocks(2u, 2u, lane, tile);
            coopStoreT(y23, &sh_y[at], STRIDE_Y);
            store_blocks(2u, 3u, lane, tile);
        }
        coopStoreT(y30, &sh_y[at], STRIDE_Y);
        store_blocks(3u, 0u, lane, tile);
        coopStoreT(y31, &sh_y[at], STRIDE_Y);
        store_blocks(3u, 1u, lane, tile);
        if WIDE {
            coopStoreT(y32, &sh_y[at], STRIDE_Y);
            store_blocks(3u, 2u, lane, tile);
            coopStoreT(y33, &sh_y[at], STRIDE_Y);
            store_blocks(3u, 3u, lane, tile);
        }
    }
}
