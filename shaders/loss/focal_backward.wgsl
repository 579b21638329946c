#import common/index.wgsl

// The gradient of loss/focal.wgsl, one invocation a logit: d_x = ∓ d_loss · weight · α_c q^γ (γ (1 − q) log(1 + exp(wrong)) + q),
// minus for the wanted class.

struct Params {
    n: u32,
    columns: u32,
    alpha: f32,
    gamma: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> wanted: array<u32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read> d_loss: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_x: array<f32>;

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i >= p.n {
        return;
    }
    let row = i / p.columns;
    let hit = i % p.columns == wanted[row];
    var v = 0.0;
    if weight[row] != 0.0 {
        let t = terms(select(x[i], -x[i], hit), p.gamma);
        let factor = select(1.0 - p.alpha, -p.alpha, hit);
        v = d_loss[row] * weight[row] * factor * t.power * (p.gamma * t.rest * t.surprise + t.q);
    }
    d_x[i] = v;
}
