#import common/codes.wgsl
#import common/index.wgsl

// What `byte_matrix.wgsl` computes, one number of a block an invocation.

struct Params {
    copies: u32,
    rounds: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<u32>;
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let block = flat_group(workgroup, workgroups);
    if block >= p.copies {
        return;
    }
    let row = local / 16u;
    let column = local % 16u;
    var sum = 0;
    for (var round = 0u; round < p.rounds; round++) {
        for (var i = 0u; i < 8u; i++) {
            let left = (i / 4u * 16u + row) * 32u;
            let right = (i % 4u * 16u + column) * 32u;
            for (var k = 0u; k < 32u; k++) {
                sum += code_of(a[(left + k) / 4u], k) * code_of(b[(right + k) / 4u], k);
            }
        }
    }
    y[block * 256u + local] = f32(sum);
}
