#import common/index.wgsl

// y = the sum of 32 chains a = a · factor + x, p.rounds long: nothing but f32 multiply-adds. The chains of an invocation do not
// wait for each other; they begin differently, so that no compiler may merge them; and the factor comes from the host, so that
// none may fold them.

struct Params {
    n: u32,
    rounds: u32,
    factor: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

const STEPS = vec4<f32>(0.0, 0.25, 0.5, 0.75);

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i >= p.n {
        return;
    }
    let b = vec4<f32>(x[i]);
    let m = vec4<f32>(p.factor);
    var a0 = STEPS;
    var a1 = STEPS + 1.0;
    var a2 = STEPS + 2.0;
    var a3 = STEPS + 3.0;
    var a4 = STEPS + 4.0;
    var a5 = STEPS + 5.0;
    var a6 = STEPS + 6.0;
    var a7 = STEPS + 7.0;
    for (var round = 0u; round < p.rounds; round++) {
        a0 = fma(a0, m, b);
        a1 = fma(a1, m, b);
        a2 = fma(a2, m, b);
        a3 = fma(a3, m, b);
        a4 = fma(a4, m, b);
        a5 = fma(a5, m, b);
        a6 = fma(a6, m, b);
        a7 = fma(a7, m, b);
    }
    let sum = ((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7));
    y[i] = (sum.x + sum.y) + (sum.z + sum.w);
}
