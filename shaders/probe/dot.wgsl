#import common/index.wgsl

// y = the sum of 8 chains a = a + dot(the four bytes of a, the four bytes of x), 8 · p.rounds long, in wrapping integers: nothing but
// products of bytes. Each step needs the one before it, so that no compiler may take it out of the loop, and eight steps are written out: the
// loop's own instructions would take 7 % of the time.

struct Params {
    n: u32,
    rounds: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

struct Chains {
    a: u32,
    b: u32,
    c: u32,
    d: u32,
    e: u32,
    f: u32,
    g: u32,
    h: u32,
}

fn step(chains: ptr<function, Chains>, w: u32) {
    (*chains).a += dot_bytes((*chains).a, w);
    (*chains).b += dot_bytes((*chains).b, w);
    (*chains).c += dot_bytes((*chains).c, w);
    (*chains).d += dot_bytes((*chains).d, w);
    (*chains).e += dot_bytes((*chains).e, w);
    (*chains).f += dot_bytes((*chains).f, w);
    (*chains).g += dot_bytes((*chains).g, w);
    (*chains).h += dot_bytes((*chains).h, w);
}

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i >= p.n {
        return;
    }
    let w = x[i];
    var chains = Chains(w, w + 1u, w + 2u, w + 3u, w + 4u, w + 5u, w + 6u, w + 7u);
    for (var round = 0u; round < p.rounds; round++) {
        step(&chains, w);
        step(&chains, w);
        step(&chains, w);
        step(&chains, w);
        step(&chains, w);
        step(&chains, w);
        step(&chains, w);
        step(&chains, w);
    }
    let left = (chains.a + chains.b) + (chains.c + chains.d);
    y[i] = left + ((chains.e + chains.f) + (chains.g + chains.h));
}
