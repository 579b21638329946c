#import common/index.wgsl

// sum += x where `keep` is not 0, sum = x where it is: one invocation a vec4. Not a product with 0, which would keep a NaN.

struct Params {
    n: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> keep: array<u32>;
@group(0) @binding(3) var<storage, read_write> sum: array<vec4<f32>>;

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i < p.n {
        var v = x[i];
        if keep[0] != 0u {
            v += sum[i];
        }
        sum[i] = v;
    }
}
