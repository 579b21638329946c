#import common/index.wgsl

// One AdamW update in place, one invocation a vec4; control as optim/control.wgsl writes it. A step that is not done leaves
// everything as it is.

struct Params {
    n: u32,
    one_less_beta1: f32,
    one_less_beta2: f32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> gradient: array<vec4<f32>>;
// The group of each BLOCK vec4s.
@group(0) @binding(2) var<storage, read> group_of: array<u32>;
// Learning rate and weight decay of each group.
@group(0) @binding(3) var<storage, read> rates: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> control: array<f32>;
@group(0) @binding(5) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> mean: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> square: array<vec4<f32>>;

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i >= p.n || control[2] == 0.0 {
        return;
    }
    let rate = rates[group_of[i / BLOCK]];
    let g = gradient[i] * control[1];
    let m = mean[i] + p.one_less_beta1 * (g - mean[i]);
    let v = square[i] + p.one_less_beta2 * (g * g - square[i]);
    let root = sqrt(v) / sqrt(control[6]) + p.epsilon;
    x[i] = x[i] * (1.0 - rate.x * rate.y) - rate.x / control[5] * (m / root);
    mean[i] = m;
    square[i] = v;
}
