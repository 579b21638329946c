#import common/index.wgsl
#import common/rounded.wgsl

// A batch norm behind a scale and shift, as one scale and shift: (scale · s, shift · s + b), every product rounded; one invocation
// a channel.

struct Params {
    n: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> scale: array<f32>;
@group(0) @binding(2) var<storage, read> shift: array<f32>;
@group(0) @binding(3) var<storage, read> s: array<f32>;
@group(0) @binding(4) var<storage, read> b: array<f32>;
@group(0) @binding(5) var<storage, read_write> scale_out: array<f32>;
@group(0) @binding(6) var<storage, read_write> shift_out: array<f32>;

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i < p.n {
        scale_out[i] = scale[i] * s[i];
        shift_out[i] = rounded(shift[i] * s[i], p.n >> 31u) + b[i];
    }
}
