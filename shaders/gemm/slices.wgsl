// Slices of both operands of a GEMM on cooperative matrices, on their way from memory through registers to workgroup memory.
//
// A slice has SLICE_K of k. An operand that is contiguous along k is staged as it lies, a row of the tile after the other; one
// that is contiguous across k (X_ACROSS, W_ACROSS) as well, a k after the other: nothing is transposed on the way, the matrices
// are loaded in the one order or the other. Staged rows are padded by 8 halves, so that the 16 rows of a block begin in
// different banks. An invocation loads chunks of eight elements: chunk `slot % CHUNKS` of staged row `slot / CHUNKS`.
//
// The operand's pieces say where that is: `row` finds a row of the tile, once, and `tap` a k, the first of its slice and how far behind
// that; `load` brings both together. Rows past the last give anything, k past the last zeros. Where ALIGNED, no k is past the last, and
// all of a slice is of one tap of a window.

const PASS_X = LANES / CHUNKS_X;
const PASS_W = LANES / CHUNKS_W;
const LOADS_X = STAGED_X / PASS_X;
const LOADS_W = STAGED_W / PASS_W;
const STRIDE_X = CHUNKS_X * 2u + 2u;
const STRIDE_W = CHUNKS_W * 2u + 2u;

var<workgroup> sh_x: array<vec4<f16>, STAGED_X * STRIDE_X>;
var<workgroup> sh_w: array<vec4<f16>, STAGED_W * STRIDE_W>;

// The slice that is under way.
var<private> next_x: array<RawX, LOADS_X>;
var<private> next_w: array<RawW, LOADS_W>;
// Rows of the tile that this invocation loads: those of all its chunks, or the one that its chunks have in common.
var<private> rows_x: array<RowX, ROWS_X>;
var<private> rows_w: array<RowW, ROWS_W>;

fn find_rows(lane: u32, row: u32, column: u32, group: u32) {
    for (var i = 0u; i < ROWS_X; i++) {
        rows_x[i] = row_x(row + select(lane / CHUNKS_X + i * PASS_X, lane % CHUNKS_X * 8u, X_ACROSS), group);
    }
    for (var i = 0u; i < ROWS_W; i++) {
        rows_w[i] = row_w(column + select(lane / CHUNKS_W + i * PASS_W, lane % CHUNKS_W * 8u, W_ACROSS), group);
    }
}

fn fetch_slice(lane: u32, k: u32, group: u32) {
    if X_ACROSS {
        for (var i = 0u; i < LOADS_X; i++) {
            next_x[i] = load_x(rows_x[0], tap_x(k, lane / CHUNKS_X + i * PASS_X, group));
        }
    } else {
        let tap = tap_x(k, lane % CHUNKS_X * 8u, group);
        for (var i = 0u; i < ROWS_X; i++) {
            next_x[i] = load_x(rows_x[i], tap);
        }
    }
    if W_ACROSS {
        for (var i = 0u; i < LOADS_W; i++) {
            next_w[i] = load_w(rows_w[0], tap_w(k, lane / CHUNKS_W + i * PASS_W, group));
        }
    } else {
        let tap = tap_w(k, lane % CHUNKS_W * 8u, group);
        for (var i = 0u; i < ROWS_W; i++) {
            next_w[i] = load_w(rows_w[i], tap);
        }
    }
}

fn stage_slice(lane: u32) {
    for (var i = 0u; i < LOADS_X; i++) {
        let at = (lane / CHUNKS_X + i * PASS_X) * STRIDE_X + lane % CHUNKS_X * 2u;
        sh_x[at] = low_x(next_x[i]);
        sh_x[at + 1u] = high_x(next_x[i]);
    }
    for (var i = 0u; i < LOADS_W; i++) {
        let at = (lane / CHUNKS_W + i * PASS_W) * STRIDE_W + lane % CHUNKS_W * 2u;
        sh_w[at] = low_w(next_w[i]);
        sh_w[at + 1u] = high_w(next_w[i]);
    }
}

// Where a block of 16 x 16 begins, at a row of the tile and a k of the slice.
fn place_x(row: u32, k: u32) -> u32 {
    return select(row * STRIDE_X + k / 4u, k * STRIDE_X + row / 4u, X_ACROSS);
}

fn place_w(column: u32, k: u32) -> u32 {
    return select(column * STRIDE_W + k / 4u, k * STRIDE_W + column / 4u, W_ACROSS);
}
