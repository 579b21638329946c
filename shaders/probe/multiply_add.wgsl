#import common/index.wgsl

// y = the sum of 32 chains a = a · factor + x, 8 · p.rounds long: nothing but f32 multiply-adds. The chains of an invocation do not
// wait for each other; they begin differently, so that no compiler may merge them; and the factor comes from the host, so that
// none may fold them. Eight steps are written out, as in dot.wgsl.

struct Params {
    n: u32,
    rounds: u32,
    factor: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

const STEPS = vec4<f32>(0.0, 0.25, 0.5, 0.75);

struct Chains {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
    e: vec4<f32>,
    f: vec4<f32>,
    g: vec4<f32>,
    h: vec4<f32>,
}

fn step(chains: ptr<function, Chains>, m: vec4<f32>, b: vec4<f32>) {
    (*chains).a = fma((*chains).a, m, b);
    (*chains).b = fma((*chains).b, m, b);
    (*chains).c = fma((*chains).c, m, b);
    (*chains).d = fma((*chains).d, m, b);
    (*chains).e = fma((*chains).e, m, b);
    (*chains).f = fma((*chains).f, m, b);
    (*chains).g = fma((*chains).g, m, b);
    (*chains).h = fma((*chains).h, m, b);
}

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i >= p.n {
        return;
    }
    let b = vec4<f32>(x[i]);
    let m = vec4<f32>(p.factor);
    var chains = Chains(STEPS, STEPS + 1.0, STEPS + 2.0, STEPS + 3.0, STEPS + 4.0, STEPS + 5.0, STEPS + 6.0, STEPS + 7.0);
    for (var round = 0u; round < p.rounds; round++) {
        step(&chains, m, b);
        step(&chains, m, b);
        step(&chains, m, b);
        step(&chains, m, b);
        step(&chains, m, b);
        step(&chains, m, b);
        step(&chains, m, b);
        step(&chains, m, b);
    }
    let left = (chains.a + chains.b) + (chains.c + chains.d);
    let sum = left + ((chains.e + chains.f) + (chains.g + chains.h));
    y[i] = (sum.x + sum.y) + (sum.z + sum.w);
}
