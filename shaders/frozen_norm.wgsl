#import common/index.wgsl

// scale = weight / sqrt(variance + eps), shift = bias - mean · scale, one invocation a channel.

struct Params {
    n: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<element>;
@group(0) @binding(2) var<storage, read> bias: array<element>;
@group(0) @binding(3) var<storage, read> mean: array<element>;
@group(0) @binding(4) var<storage, read> variance: array<element>;
@group(0) @binding(5) var<storage, read_write> scale: array<element>;
@group(0) @binding(6) var<storage, read_write> shift: array<element>;

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i < p.n {
        let s = f32(weight[i]) / sqrt(f32(variance[i]) + p.eps);
        scale[i] = element(s);
        shift[i] = element(f32(bias[i]) - f32(mean[i]) * s);
    }
}
