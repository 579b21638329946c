#import common/index.wgsl
#import common/reciprocal.wgsl

// What a quantizer's kernels read of each step size: (alpha within its limits, 1 / alpha, Z, Z - offset); one invocation a step size.

struct Params {
    n: u32,
    alpha_min: f32,
    alpha_max: f32,
    low: f32,
    high: f32,
    offset: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> alpha: array<f32>;
@group(0) @binding(2) var<storage, read> zero_point: array<f32>;
@group(0) @binding(3) var<storage, read_write> state: array<vec4<f32>>;

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i >= p.n {
        return;
    }
    let step = clamp(alpha[i], p.alpha_min, p.alpha_max);
    var zero = 0.0;
    if HAS_ZERO_POINT {
        zero = clamp(round(zero_point[i]), p.low, p.high);
    }
    state[i] = vec4<f32>(step, reciprocal(step), zero, zero - p.offset);
}
