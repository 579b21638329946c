#import common/index.wgsl

// The state of each step size; one invocation a step size.

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
    var zero = 0.0;
    if HAS_ZERO_POINT {
        zero = zero_point[i];
    }
    state[i] = state_of(alpha[i], zero, p.low, p.high, p.offset);
}
