#import common/index.wgsl

// What matrix.wgsl computes, of bytes: blocks of a and b are 16 × 32, sums i32 (gpu/byte_matrices.rs).

struct Params {
    copies: u32,
    rounds: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const SUBGROUPS = 4u;
const BLOCK = 256u;
// A row of a block, in vectors of sixteen codes.
const STRIDE = 2u;

var<workgroup> sh_a: array<vec4<f32>, 32u * STRIDE>;
var<workgroup> sh_b: array<vec4<f32>, 64u * STRIDE>;
var<workgroup> sh_y: array<f32, SUBGROUPS * BLOCK>;

var<private> sums: array<i32, 8>;

// Adds the block that the subgroup has stored.
fn add_block(subgroup: u32, lane: u32) {
    workgroupBarrier();
    for (var i = 0u; i < 8u; i++) {
        sums[i] += bitcast<i32>(sh_y[subgroup * BLOCK + i * 32u + lane]);
    }
    workgroupBarrier();
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    sh_a[local / 2u] = bitcast<vec4<f32>>(a[local / 2u]);
    sh_b[local] = bitcast<vec4<f32>>(b[local]);
    workgroupBarrier();
    let a0 = coopLoadT<coop_mat16x16<f32, A>>(&sh_a[0], STRIDE);
    let a1 = coopLoadT<coop_mat16x16<f32, A>>(&sh_a[32], STRIDE);
    let b0 = coopLoad<coop_mat16x16<f32, B>>(&sh_b[0], STRIDE);
    let b1 = coopLoad<coop_mat16x16<f32, B>>(&sh_b[32], STRIDE);
    let b2 = coopLoad<coop_mat16x16<f32, B>>(&sh_b[64], STRIDE);
    let b3 = coopLoad<coop_mat16x16<f32, B>>(&sh_b[96], STRIDE);
    var c00 = coop_mat16x16<f32, C>();
    var c01 = coop_mat16x16<f32, C>();
    var c02 = coop_mat16x16<f32, C>();
    var c03 = coop_mat16x16<f32, C>();
    var c10 = coop_mat16x16<f32, C>();
    var c11 = coop_mat16x16<f32, C>();
    var c12 = coop_mat16x16<f32, C>();
    var c13 = coop_mat16x16<f32, C>();
    for (var round = 0u; round < p.rounds; round++) {
        c00 = coopMultiplyAdd(a0, b0, c00);
        c01 = coopMultiplyAdd(a0, b1, c01);
        c02 = coopMultiplyAdd(a0, b2, c02);
        c03 = coopMultiplyAdd(a0, b3, c03);
        c10 = coopMultiplyAdd(a1, b0, c10);
        c11 = coopMultiplyAdd(a1, b1, c11);
        c12 = coopMultiplyAdd(a1, b2, c12);
        c13 = coopMultiplyAdd(a1, b3, c13);
    }
    let subgroup = local / 32u;
    let lane = local % 32u;
    let at = subgroup * BLOCK;
    coopStoreT(c00, &sh_y[at], 16u);
    add_block(subgroup, lane);
    coopStoreT(c01, &sh_y[at], 16u);
    add_block(subgroup, lane);
    coopStoreT(c02, &sh_y[at], 16u);
    add_block(subgroup, lane);
    coopStoreT(c03, &sh_y[at], 16u);
    add_block(subgroup, lane);
    coopStoreT(c10, &sh_y[at], 16u);
    add_block(subgroup, lane);
    coopStoreT(c11, &sh_y[at], 16u);
    add_block(subgroup, lane);
    coopStoreT(c12, &sh_y[at], 16u);
    add_block(subgroup, lane);
    coopStoreT(c13, &sh_y[at], 16u);
    add_block(subgroup, lane);
    let row = flat_group(workgroup, workgroups) * SUBGROUPS + subgroup;
    if row < p.copies {
        for (var i = 0u; i < 8u; i++) {
            y[row * BLOCK + i * 32u + lane] = f32(sums[i]);
        }
    }
}
