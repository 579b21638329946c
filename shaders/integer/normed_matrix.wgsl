#import common/index.wgsl
#import common/reduce.wgsl

// y = norm(scale[n] · S + shift[n] + residual), S[m, n] = sum over k of x[m, k] * w[n, k], of codes, for rows of 256 channels, on cooperative
// matrices of bytes: what is called coop_mat16x16<f32, ..> here are 16 x 32 and 32 x 16 codes and 16 x 16 i32 (gpu/byte_matrices.rs).
//
// A workgroup has sixteen rows, and each of its eight subgroups (32 lanes) 32 columns of them, which no other wants: it takes its slices of w,
// 64 codes of each column, through its own strip of workgroup memory, without waiting for others. The four slices of a block of k are under
// way in registers at a time. All share the block of x. Rows of both are padded by a chunk of sixteen codes, so that neighbours begin in other
// banks.
//
// Then sums become vectors of four neighbouring channels, in workgroup memory, where sixteen lanes have a row, each four vectors of it, as in
// a norm by itself (layer_norm.wgsl); sums over a row are added up in the same order, so that they have the same bits. What rows have in
// common and what is added to them is on its way from the beginning: behind the products it would be waited for, and behind a row's first
// stores a compiler could not move it before them.

alias RawX = vec4<u32>;
alias RawW = vec4<u32>;

const GROUP = 256u;
const STRIDE_X = BLOCK / 16u + 1u;
// Of a slice of w.
const STRIDE_W = 5u;
const FIRST_W = 16u * STRIDE_X;
const STRIP_W = 32u * STRIDE_W;
// Of sums, in vectors of four, the rows padded by one. Behind them is what rows have in common.
const VECTORS = 64u;
const STRIDE_Y = VECTORS + 1u;
const FIRST_CONSTANT = 16u * STRIDE_Y;
const STAGED = max(FIRST_W + 8u * STRIP_W, FIRST_CONSTANT + 4u * VECTORS + QUANTIZERS);

var<workgroup> sh: array<vec4<f32>, STAGED>;

// A chunk of every eighth column of a subgroup.
struct Four {
    a: vec4<u32>,
    b: vec4<u32>,
    c: vec4<u32>,
    d: vec4<u32>,
}

// A lane's vectors of a row: those of its index and sixteen, 32 and 48 further.
struct Vectors {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
}

struct Residuals {
    a: element_y4,
    b: element_y4,
    c: element_y4,
    d: element_y4,
}

struct Addends {
    a: element_addend4,
    b: element_addend4,
    c: element_addend4,
    d: element_addend4,
}

fn constant_at(i: u32) -> vec4<f32> {
    return sh[FIRST_CONSTANT + i];
}

struct RowsW {
    a: RowW,
    b: RowW,
    c: RowW,
    d: RowW,
}

fn fetch_w(rows: RowsW, k: u32, within: u32) -> Four {
    let tap = tap_w(k, within, 0u);
    return Four(load_w(rows.a, tap), load_w(rows.b, tap), load_w(rows.c, tap), load_w(rows.d, tap));
}

fn stage_w(at: u32, chunks: Four) {
    sh[at] = bitcast<vec4<f32>>(chunks.a);
    sh[at + 8u * STRIDE_W] = bitcast<vec4<f32>>(chunks.b);
    sh[at + 16u * STRIDE_W] = bitcast<vec4<f32>>(chunks.c);
    sh[at + 24u * STRIDE_W] = bitcast<vec4<f32>>(chunks.d);
}

// Adds the products of a slice, at `at_x` in the rows of x. Before and behind, the subgroup's lanes wait for each other.
fn multiply(at_x: u32, strip: u32, y_left: ptr<function, coop_mat16x16<f32, C>>, y_right: ptr<function, coop_mat16x16<f32, C>>) {
    subgroupBarrier();
    for (var i = 0u; i < 4u; i += 2u) {
        let at_a = at_x + i;
        let at_left = strip + i;
        let at_right = at_left + 16u * STRIDE_W;
        let a = coopLoadT<coop_mat16x16<f32, A>>(&sh[at_a], STRIDE_X);
        let left = coopLoad<coop_mat16x16<f32, B>>(&sh[at_left], STRIDE_W);
        let right = coopLoad<coop_mat16x16<f32, B>>(&sh[at_right], STRIDE_W);
        *y_left = coopMultiplyAdd(a, left, *y_left);
        *y_right = coopMultiplyAdd(a, right, *y_right);
    }
    subgroupBarrier();
}

fn value_at(at: u32, vector: u32, added: element_y4) -> vec4<f32> {
    return value_of(vector, bitcast<vec4<i32>>(sh[at + vector]), vec4<f32>(added));
}

fn store_row(lane: u32, row: u32, before: Residuals, behind: Addends) {
    let first = lane % 16u;
    let at = lane / 16u * STRIDE_Y;
    let y = Vectors(
        value_at(at, first, before.a),
        value_at(at, first + 16u, before.b),
        value_at(at, first + 32u, before.c),
        value_at(at, first + 48u, before.d),
    );
    let sum = wide() + y.a + y.b + y.c + y.d;
    let mean = reduce_sum(lane, sum_of(sum)) / f32(p.n);
    var squares = with_square(wide(), y.a, mean);
    squares = with_square(squares, y.b, mean);
    squares = with_square(squares, y.c, mean);
    squares = with_square(squares, y.d, mean);
    let r = inverse_deviation(reduce_sum(lane, sum_of(squares)));
    if row < p.m {
        store_normal(row, first, y.a, mean, r, behind.a);
        store_normal(row, first + 16u, y.b, mean, r, behind.b);
        store_normal(row, first + 32u, y.c, mean, r, behind.c);
        store_normal(row, first + 48u, y.d, mean, r, behind.d);
    }
}

@compute @workgroup_size(GROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // Workgroups past the last, from folding the grid, have rows past the last, so that they store nothing.
    let first_row = flat_group(workgroup, workgroups) * 16u;
    let subgroup = lane / 32u;
    let rows_x = row_x(first_row + lane / 16u, 0u);
    let chunk_x = lane % 16u;
    let at_x = lane / 16u * STRIDE_X + chunk_x;
    let column = lane % 32u / 4u;
    let w_row = subgroup * 32u + column;
    let rows_w = RowsW(row_w(w_row, 0u), row_w(w_row + 8u, 0u), row_w(w_row + 16u, 0u), row_w(w_row + 24u, 0u));
    let within = lane % 4u * 16u;
    let strip = FIRST_W + subgroup * STRIP_W;
    let at_w = strip + column * STRIDE_W + lane % 4u;

    var x_next = load_x(rows_x, tap_x(0u, chunk_x * 16u, 0u));
    var w0 = fetch_w(rows_w, 0u, within);
    var w1 = fetch_w(rows_w, 64u, within);
    var w2 = fetch_w(rows_w, 128u, within);
    var w3 = fetch_w(rows_w, 192u, within);
    let of_channels = constants[lane];
    var state = vec4<f32>();
    if lane < QUANTIZERS {
        state = constants[4u * VECTORS + lane];
    }
    // A row past the last is the last: what comes of it is not stored.
    let row = first_row + lane / 16u;
    let at = result_at(min(row, p.m - 1u), lane % 16u);
    let before = Residuals(residual_at(at), residual_at(at + 16u), residual_at(at + 32u), residual_at(at + 48u));
    let behind = Addends(addend_at(at), addend_at(at + 16u), addend_at(at + 32u), addend_at(at + 48u));

    var y_left = coop_mat16x16<f32, C>();
    var y_right = coop_mat16x16<f32, C>();
    for (var k = 0u; k < p.k; k += BLOCK) {
        workgroupBarrier();
        sh[at_x] = bitcast<vec4<f32>>(x_next);
        workgroupBarrier();
        let k_next = k + BLOCK;
        let is_last = k_next >= p.k;
        if !is_last {
            x_next = load_x(rows_x, tap_x(k_next, chunk_x * 16u, 0u));
        }
        stage_w(at_w, w0);
        if !is_last {
            w0 = fetch_w(rows_w, k_next, within);
        }
        multiply(0u, strip, &y_left, &y_right);
        stage_w(at_w, w1);
        if !is_last {
            w1 = fetch_w(rows_w, k_next + 64u, within);
        }
        multiply(4u, strip, &y_left, &y_right);
        stage_w(at_w, w2);
        if !is_last {
            w2 = fetch_w(rows_w, k_next + 128u, within);
        }
        multiply(8u, strip, &y_left, &y_right);
        stage_w(at_w, w3);
        if !is_last {
            w3 = fetch_w(rows_w, k_next + 192u, within);
        }
        multiply(12u, strip, &y_left, &y_right);
    }

    // Sums are to lie where the operands of all are.
    workgroupBarrier();
    let at_y = subgroup * 8u;
    let at_y_right = at_y + 4u;
    coopStoreT(y_left, &sh[at_y], STRIDE_Y);
    coopStoreT(y_right, &sh[at_y_right], STRIDE_Y);
    sh[FIRST_CONSTANT + lane] = of_channels;
    if lane < QUANTIZERS {
        sh[FIRST_CONSTANT + 4u * VECTORS + lane] = state;
    }
    workgroupBarrier();
    store_row(lane, row, before, behind);
}
