#import common/index.wgsl

// S[m, n] = sum over k of x[m, k] * w[n, k], of codes, on cooperative matrices of bytes: what is called coop_mat16x16<f32, ..> here
// are 16 x 32 and 32 x 16 codes and 16 x 16 i32 (gpu/byte_matrices.rs). Sums are exact.
//
// A workgroup computes WALK tiles of TILE_M x TILE_N results, one below the other; the first slice of the next one is on its way while the
// results of one are stored. Its subgroups (32 lanes) have SUB_M x 32 of them each, in blocks of 16 x 16; where that
// leaves some, SHARES of them have the same results, and each its part of every slice of k. A slice, SLICE_K codes of all rows of
// both operands, goes from memory through registers to workgroup memory, in chunks of sixteen codes; rows are padded by a chunk, so
// that neighbours begin in other banks. Where the last slice was, sums become vectors of four neighbouring columns.
//
// Matrices have names of their own, and so have chunks: in arrays, even of constant indices in loops, the compiler put them into memory
// (H100, 4096^3: 330 in place of 469 TOP/s; 58 with subgroups of 64 x 64).

alias RawX = vec4<u32>;
alias RawW = vec4<u32>;

const CHUNKS = SLICE_K / 16u;
const STRIDE = CHUNKS + 1u;
// Rows that all lanes load at once, and how often.
const PASS = LANES / CHUNKS;
const LOADS_X = TILE_M / PASS;
const LOADS_W = TILE_N / PASS;
const FIRST_W = TILE_M * STRIDE;
const SUBGROUPS_N = TILE_N / 32u;
const SHARE = CHUNKS / SHARES;
// Blocks below the first two.
const IS_TALL = SUB_M > 32u;
// Of 16 x 32 sums, in vectors of four, the rows padded by one. Larger strips cost more than their barriers: a processor of an H100 takes
// workgroups only while they hold some 50 KiB in all.
const STRIDE_Y = 9u;
const STRIP = 16u * STRIDE_Y;
const STAGED = max((TILE_M + TILE_N) * STRIDE, LANES / 32u * STRIP);

var<workgroup> sh: array<vec4<f32>, STAGED>;

struct RowsX {
    a: RowX,
    b: RowX,
    c: RowX,
    d: RowX,
}

struct RowsW {
    a: RowW,
    b: RowW,
    c: RowW,
    d: RowW,
}

struct Four {
    a: vec4<u32>,
    b: vec4<u32>,
    c: vec4<u32>,
    d: vec4<u32>,
}

fn rows_x_at(row: u32) -> RowsX {
    return RowsX(row_x(row, product), row_x(row + PASS, product), row_x(row + 2u * PASS, product), row_x(row + 3u * PASS, product));
}

fn fetch_x(rows: RowsX, k: u32, within: u32) -> Four {
    let tap = tap_x(k, within, 0u);
    var chunks = Four();
    chunks.a = load_x(rows.a, tap);
    if LOADS_X > 1u {
        chunks.b = load_x(rows.b, tap);
    }
    if LOADS_X > 2u {
        chunks.c = load_x(rows.c, tap);
        chunks.d = load_x(rows.d, tap);
    }
    return chunks;
}

fn fetch_w(rows: RowsW, k: u32, within: u32) -> Four {
    let tap = tap_w(k, within, 0u);
    var chunks = Four();
    chunks.a = load_w(rows.a, tap);
    if LOADS_W > 1u {
        chunks.b = load_w(rows.b, tap);
    }
    if LOADS_W > 2u {
        chunks.c = load_w(rows.c, tap);
        chunks.d = load_w(rows.d, tap);
    }
    return chunks;
}

fn stage(at: u32, loads: u32, chunks: Four) {
    sh[at] = bitcast<vec4<f32>>(chunks.a);
    if loads > 1u {
        sh[at + PASS * STRIDE] = bitcast<vec4<f32>>(chunks.b);
    }
    if loads > 2u {
        sh[at + 2u * PASS * STRIDE] = bitcast<vec4<f32>>(chunks.c);
        sh[at + 3u * PASS * STRIDE] = bitcast<vec4<f32>>(chunks.d);
    }
}

// Chunks of x as they are multiplied.
fn as_multiplied(chunks: Four, given: Loading) -> Four {
    var all = Four();
    all.a = loaded4(chunks.a, given);
    if LOADS_X > 1u {
        all.b = loaded4(chunks.b, given);
    }
    if LOADS_X > 2u {
        all.c = loaded4(chunks.c, given);
        all.d = loaded4(chunks.d, given);
    }
    return all;
}

// The sums of all shares.
fn sums_at(at: u32) -> vec4<i32> {
    var sums = bitcast<vec4<i32>>(sh[at]);
    if SHARES > 1u {
        sums += bitcast<vec4<i32>>(sh[at + STRIP]);
    }
    if SHARES > 2u {
        sums += bitcast<vec4<i32>>(sh[at + 2u * STRIP]) + bitcast<vec4<i32>>(sh[at + 3u * STRIP]);
    }
    return sums;
}

// Where a lane finds its first sums and stores its first result; its next ones are 4 * SHARES rows below each other.
struct Results {
    sums: u32,
    row: u32,
    column: u32,
    channels: Channels,
}

// Residuals of a lane's results, as they are stored.
struct Added {
    a: Residual,
    b: Residual,
    c: Residual,
    d: Residual,
}

fn added_to(r: Results, i: u32) -> Residual {
    let row = r.row + i * 4u * SHARES;
    if HAS_RESIDUAL && row < p.m && r.column < p.n {
        return residual_at(result_at(row, r.column));
    }
    return Residual();
}

fn all_added_to(r: Results) -> Added {
    var added = Added();
    added.a = added_to(r, 0u);
    if SHARES < 4u {
        added.b = added_to(r, 1u);
    }
    if SHARES < 2u {
        added.c = added_to(r, 2u);
        added.d = added_to(r, 3u);
    }
    return added;
}

fn result(r: Results, i: u32, residual: Residual) -> vec4<f32> {
    let added = added_by(residual, r.channels.residual_step);
    return finished(r.channels.scale, r.channels.shift, sums_at(r.sums + i * 4u * SHARES * STRIDE_Y), added);
}

// The same sixteen rows further down.
fn next(r: Results) -> Results {
    return Results(r.sums, r.row + 16u, r.column, r.channels);
}

fn store_result(r: Results, i: u32, v: vec4<f32>) {
    let row = r.row + i * 4u * SHARES;
    if row < p.m && r.column < p.n {
        store(result_at(row, r.column), v, r.channels);
    }
}

// Stores 16 x 32 results of each subgroup; those that share results share this too. Everything is read before anything is stored: a
// compiler cannot move loads before stores that may be to the same place.
fn store_results(r: Results, added: Added) {
    let v0 = result(r, 0u, added.a);
    if SHARES > 2u {
        store_result(r, 0u, v0);
        return;
    }
    let v1 = result(r, 1u, added.b);
    if SHARES > 1u {
        store_result(r, 0u, v0);
        store_result(r, 1u, v1);
        return;
    }
    let v2 = result(r, 2u, added.c);
    let v3 = result(r, 3u, added.d);
    store_result(r, 0u, v0);
    store_result(r, 1u, v1);
    store_result(r, 2u, v2);
    store_result(r, 3u, v3);
}

// Where all have stored, or read, a strip that they read, or store, next.
fn meet() {
    if SHARES > 1u {
        workgroupBarrier();
    } else {
        subgroupBarrier();
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
    // Workgroups past the last, from folding the grid, have rows past the last, so that they store nothing. They cannot return:
    // cooperative matrices want uniform control flow.
    let first_tile = min(tile_row_of(flat / p.tiles_n * WALK), p.tiles_m);
    let subgroup = lane / 32u;
    let share = subgroup % SHARES;
    let tile = subgroup / SHARES;
    let sub_row = tile / SUBGROUPS_N * SUB_M;
    let sub_column = tile % SUBGROUPS_N * 32u;

    let row = lane / CHUNKS;
    let chunk = lane % CHUNKS;
    let w_row = tile_column + row;
    var rows_x = rows_x_at(first_tile * TILE_M + row);
    let rows_w = RowsW(row_w(w_row, product), row_w(w_row + PASS, product), row_w(w_row + 2u * PASS, product), row_w(w_row + 3u * PASS, product));
    let at_x = row * STRIDE + chunk;
    let given = loading();
    var next_x = fetch_x(rows_x, 0u, chunk * 16u);
    var next_w = fetch_w(rows_w, 0u, chunk * 16u);

    let local = share * 32u + lane % 32u;
    let at = tile * SHARES * STRIP + local / 8u * STRIDE_Y + local % 8u;
    let column = tile_column + sub_column + local % 8u * 4u;
    let channels = channels_at(min(column, p.n - 4u));
    let first_x = sub_row * STRIDE + share * SHARE;
    let first_w = FIRST_W + sub_column * STRIDE + share * SHARE;
    for (var t = 0u; t < WALK; t++) {
        let tile_row = (first_tile + t) * TILE_M;
        var results = Results(at, tile_row + sub_row + local / 8u, column, channels);
        var y00 = coop_mat16x16<f32, C>();
        var y01 = coop_mat16x16<f32, C>();
        var y10 = coop_mat16x16<f32, C>();
        var y11 = coop_mat16x16<f32, C>();
        var y20 = coop_mat16x16<f32, C>();
        var y21 = coop_mat16x16<f32, C>();
        var y30 = coop_mat16x16<f32, C>();
        var y31 = coop_mat16x16<f32, C>();
        for (var k = 0u; k < p.k; k += SLICE_K) {
            if RECODES {
                next_x = as_multiplied(next_x, given);
            }
            stage(at_x, LOADS_X, next_x);
            stage(FIRST_W + at_x, LOADS_W, next_w);
            workgroupBarrier();
            if k + SLICE_K < p.k {
                next_x = fetch_x(rows_x, k + SLICE_K, chunk * 16u);
                next_w = fetch_w(rows_w, k + SLICE_K, chunk * 16u);
            } else if t + 1u < WALK {
                rows_x = rows_x_at((first_tile + t + 1u) * TILE_M + row);
                next_x = fetch_x(rows_x, 0u, chunk * 16u);
                next_w = fetch_w(rows_w, 0u, chunk * 16u);
            }
            for (var kk = 0u; kk < SHARE; kk += 2u) {
                let at_x0 = first_x + kk;
                let at_x1 = at_x0 + 16u * STRIDE;
                let at_w0 = first_w + kk;
                let at_w1 = at_w0 + 16u * STRIDE;
                let x0 = coopLoadT<coop_mat16x16<f32, A>>(&sh[at_x0], STRIDE);
                let x1 = coopLoadT<coop_mat16x16<f32, A>>(&sh[at_x1], STRIDE);
                let w0 = coopLoad<coop_mat16x16<f32, B>>(&sh[at_w0], STRIDE);
                let w1 = coopLoad<coop_mat16x16<f32, B>>(&sh[at_w1], STRIDE);
                y00 = coopMultiplyAdd(x0, w0, y00);
                y10 = coopMultiplyAdd(x1, w0, y10);
                y01 = coopMultiplyAdd(x0, w1, y01);
                y11 = coopMultiplyAdd(x1, w1, y11);
                if IS_TALL {
                    let at_x2 = at_x0 + 32u * STRIDE;
                    let at_x3 = at_x0 + 48u * STRIDE;
                    let x2 = coopLoadT<coop_mat16x16<f32, A>>(&sh[at_x2], STRIDE);
                    let x3 = coopLoadT<coop_mat16x16<f32, A>>(&sh[at_x3], STRIDE);
                    y20 = coopMultiplyAdd(x2, w0, y20);
                    y30 = coopMultiplyAdd(x3, w0, y30);
                    y21 = coopMultiplyAdd(x2, w1, y21);
                    y31 = coopMultiplyAdd(x3, w1, y31);
                }
            }
            workgroupBarrier();
        }

        let left = subgroup * STRIP;
        let right = left + 4u;
        var added = all_added_to(results);
        var below = next(results);
        var added_below = all_added_to(below);
        coopStoreT(y00, &sh[left], STRIDE_Y);
        coopStoreT(y01, &sh[right], STRIDE_Y);
        meet();
        store_results(results, added);
        meet();
        coopStoreT(y10, &sh[left], STRIDE_Y);
        coopStoreT(y11, &sh[right], STRIDE_Y);
        meet();
        if IS_TALL {
            results = next(below);
            added = all_added_to(results);
        }
        store_results(below, added_below);
        if IS_TALL {
            meet();
            coopStoreT(y20, &sh[left], STRIDE_Y);
            coopStoreT(y21, &sh[right], STRIDE_Y);
            meet();
            below = next(results);
            added_below = all_added_to(below);
            store_results(results, added);
            meet();
            coopStoreT(y30, &sh[left], STRIDE_Y);
            coopStoreT(y31, &sh[right], STRIDE_Y);
            meet();
            store_results(below, added_below);
        }
        if WALK > 1u {
            // Strips lie where the next slice goes.
            workgroupBarrier();
        }
    }
}
