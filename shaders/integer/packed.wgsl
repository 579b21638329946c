#import common/index.wgsl

// y[m, n] = finish(sum over k of x[m, k] * w[n, k]) on codes, four multiply-adds an instruction, in i32.
// A workgroup computes TILE_M x TILE_N results from slices of SLICE words of four codes; an invocation computes LANE_ROWS x 4 of them, of
// four rows together and, where it has eight, of four others LANES_M vectors further down.
// The slices are stored word by word, in vectors of four rows. A lane loads at most one block of four words
// by four rows, and does so while the slice before is multiplied.
// Why not codes unpacked in workgroup memory: four times the traffic there, which is what bounds this kernel.
// Sums have names of their own: in an array, which compilers put into memory, 4096^3 ran at 87 TOP/s in place of 95 (H100). STEPS steps are
// written out, 1 or 16: compilers don't do it by themselves, and on software it takes them seconds.

const LANES_N = TILE_N / 4u;
const LANES_M = TILE_M / LANE_ROWS;
const LANES = LANES_M * LANES_N;
// One vector of padding a word keeps the transposed stores off one bank.
const STRIDE_M = TILE_M / 4u + 1u;
const STRIDE_N = TILE_N / 4u + 1u;
const BLOCKS_K = SLICE / 4u;
const BLOCKS_M = TILE_M / 4u * BLOCKS_K;
const BLOCKS_N = TILE_N / 4u * BLOCKS_K;

var<workgroup> sh_x: array<vec4<u32>, SLICE * STRIDE_M>;
var<workgroup> sh_w: array<vec4<u32>, SLICE * STRIDE_N>;

fn dots(left: u32, right: vec4<u32>) -> vec4<i32> {
    return vec4<i32>(
        dot4I8Packed(left, right.x),
        dot4I8Packed(left, right.y),
        dot4I8Packed(left, right.z),
        dot4I8Packed(left, right.w),
    );
}

// The sums of an invocation by rows.
struct Sums {
    a: vec4<i32>,
    b: vec4<i32>,
    c: vec4<i32>,
    d: vec4<i32>,
    e: vec4<i32>,
    f: vec4<i32>,
    g: vec4<i32>,
    h: vec4<i32>,
}

// Adds the products of one word of the slice.
fn step(sums: ptr<function, Sums>, word: u32, lane_m: u32, lane_n: u32) {
    let right = sh_w[word * STRIDE_N + lane_n];
    let left = sh_x[word * STRIDE_M + lane_m];
    (*sums).a += dots(left.x, right);
    (*sums).b += dots(left.y, right);
    (*sums).c += dots(left.z, right);
    (*sums).d += dots(left.w, right);
    if LANE_ROWS == 8u {
        let below = sh_x[word * STRIDE_M + lane_m + LANES_M];
        (*sums).e += dots(below.x, right);
        (*sums).f += dots(below.y, right);
        (*sums).g += dots(below.z, right);
        (*sums).h += dots(below.w, right);
    }
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let flat = flat_group(workgroup, workgroups);
    let tile_n = flat % p.tiles_n;
    // Workgroups past the last, from folding the grid, get rows past the last and so store nothing.
    let tile_m = tile_row_of(flat / p.tiles_n);
    let loads_x = lane < BLOCKS_M;
    let loads_w = !loads_x && lane < BLOCKS_M + BLOCKS_N;
    let load = select(lane - BLOCKS_M, lane, loads_x);
    let load_rows = load / BLOCKS_K;
    let load_word = load % BLOCKS_K * 4u;
    let source_x = lane_x(tile_m * TILE_M + load_rows * 4u);
    let row_w = tile_n * TILE_N + load_rows * 4u;
    let at_x = load_word * STRIDE_M + load_rows;
    let at_w = load_word * STRIDE_N + load_rows;
    let given = loading();
    var next: Block;
    if loads_x {
        next = block_x(source_x, load_word * 4u);
    } else if loads_w {
        next = block_w(row_w, load_word * 4u);
    }
    let lane_n = lane % LANES_N;
    let lane_m = lane / LANES_N;
    var sums: Sums;
    for (var k = 0u; k < p.k; k += SLICE * 4u) {
        if loads_x {
            sh_x[at_x] = loaded4(next.a, given);
            sh_x[at_x + STRIDE_M] = loaded4(next.b, given);
            sh_x[at_x + 2u * STRIDE_M] = loaded4(next.c, given);
            sh_x[at_x + 3u * STRIDE_M] = loaded4(next.d, given);
        } else if loads_w {
            sh_w[at_w] = next.a;
            sh_w[at_w + STRIDE_N] = next.b;
            sh_w[at_w + 2u * STRIDE_N] = next.c;
            sh_w[at_w + 3u * STRIDE_N] = next.d;
        }
        workgroupBarrier();
        let next_k = k + (SLICE + load_word) * 4u;
        if loads_x {
            next = block_x(source_x, next_k);
        } else if loads_w {
            next = block_w(row_w, next_k);
        }
        for (var kk = 0u; kk < SLICE; kk += STEPS) {
            step(&sums, kk, lane_m, lane_n);
            if STEPS == 16u {
                step(&sums, kk + 1u, lane_m, lane_n);
                step(&sums, kk + 2u, lane_m, lane_n);
                step(&sums, kk + 3u, lane_m, lane_n);
                step(&sums, kk + 4u, lane_m, lane_n);
                step(&sums, kk + 5u, lane_m, lane_n);
                step(&sums, kk + 6u, lane_m, lane_n);
                step(&sums, kk + 7u, lane_m, lane_n);
                step(&sums, kk + 8u, lane_m, lane_n);
                step(&sums, kk + 9u, lane_m, lane_n);
                step(&sums, kk + 10u, lane_m, lane_n);
                step(&sums, kk + 11u, lane_m, lane_n);
                step(&sums, kk + 12u, lane_m, lane_n);
                step(&sums, kk + 13u, lane_m, lane_n);
                step(&sums, kk + 14u, lane_m, lane_n);
                step(&sums, kk + 15u, lane_m, lane_n);
            }
        }
        workgroupBarrier();
    }
    let row = tile_m * TILE_M + lane_m * 4u;
    let column = tile_n * TILE_N + lane_n * 4u;
    store_sums(row, column, sums.a);
    store_sums(row + 1u, column, sums.b);
    store_sums(row + 2u, column, sums.c);
    store_sums(row + 3u, column, sums.d);
    if LANE_ROWS == 8u {
        let below = row + 4u * LANES_M;
        store_sums(below, column, sums.e);
        store_sums(below + 1u, column, sums.f);
        store_sums(below + 2u, column, sums.g);
        store_sums(below + 3u, column, sums.h);
    }
}
