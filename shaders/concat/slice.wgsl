#import common/index.wgsl

// y = a range of x; one invocation a number or a vec4 of numbers.

struct Params {
    n: u32,
    first: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<wide>;
@group(0) @binding(2) var<storage, read_write> y: array<wide>;

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i < p.n {
        y[i] = x[p.first + i];
    }
}
