#import common/index.wgsl

// y[.., c] = x[.., c] · scale[c] + shift[c], one invocation a number or a vec4 of numbers; p.columns counts them in a row.

struct Params {
    n: u32,
    columns: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<wide_x>;
@group(0) @binding(2) var<storage, read> scale: array<wide_s>;
@group(0) @binding(3) var<storage, read> shift: array<wide_s>;
@group(0) @binding(4) var<storage, read_write> y: array<wide_x>;

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i < p.n {
        let c = i % p.columns;
        y[i] = wide_x(wide(x[i]) * wide(scale[c]) + wide(shift[c]));
    }
}
