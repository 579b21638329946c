#import common/index.wgsl

// y = the sum of 8 chains a = a + dot(the four bytes of a, the four bytes of x), p.rounds long, in wrapping integers: nothing but
// products of bytes. Each step needs the one before it, so that no compiler may take it out of the loop.

struct Params {
    n: u32,
    rounds: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i >= p.n {
        return;
    }
    let w = x[i];
    var a0 = w;
    var a1 = w + 1u;
    var a2 = w + 2u;
    var a3 = w + 3u;
    var a4 = w + 4u;
    var a5 = w + 5u;
    var a6 = w + 6u;
    var a7 = w + 7u;
    for (var round = 0u; round < p.rounds; round++) {
        a0 += dot_bytes(a0, w);
        a1 += dot_bytes(a1, w);
        a2 += dot_bytes(a2, w);
        a3 += dot_bytes(a3, w);
        a4 += dot_bytes(a4, w);
        a5 += dot_bytes(a5, w);
        a6 += dot_bytes(a6, w);
        a7 += dot_bytes(a7, w);
    }
    y[i] = ((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7));
}
