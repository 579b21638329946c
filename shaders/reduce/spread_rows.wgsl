#import common/index.wgsl

// y[r, c] = scale · x[r / chunk, c], one invocation an element.

struct Params {
    n: u32,
    columns: u32,
    chunk: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<element_x>;
@group(0) @binding(2) var<storage, read_write> y: array<element_y>;

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i < p.n {
        let part = i / (p.columns * p.chunk);
        y[i] = element_y(f32(x[part * p.columns + i % p.columns]) * p.scale);
    }
}
