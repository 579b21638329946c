#import common/index.wgsl

// d_alpha and d_zp are columns 0 and 2 of the state's gradient; one invocation a step size.

struct Params {
    n: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> d_state: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> d_alpha: array<f32>;
@group(0) @binding(3) var<storage, read_write> d_zp: array<f32>;

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i < p.n {
        let d = d_state[i];
        d_alpha[i] = d.x;
        d_zp[i] = d.z;
    }
}
