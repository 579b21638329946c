#import common/index.wgsl
#import common/dropout.wgsl

// y = x / (1 - p) where it is kept, 0 elsewhere; one invocation a number or a vec4 of numbers. A piece stores the results.

struct Params {
    n: u32,
    salt: u32,
    threshold: u32,
    // 1 / (1 - p)
    scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<wide_x>;
@group(0) @binding(2) var<storage, read> seed: array<u32>;

// The zero of a rounding barrier.
fn no_bits() -> u32 {
    return p.n >> 31u;
}

// Vectors of results.
fn words() -> u32 {
    return p.n;
}

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i >= p.n {
        return;
    }
    let keys = dropout_keys(seed[0], p.salt);
    let scaled = wide(x[i]) * p.scale;
    store(i, select(wide(), scaled, kept(i, keys)));
}
