#import common/index.wgsl

// Nearest-neighbour resize of the mask of valid pixels, as PyTorch's `interpolate`: source = floor(destination · in / out).

struct Params {
    n: u32,
    height: u32,
    width: u32,
    out_height: u32,
    out_width: u32,
    scale_y: f32,
    scale_x: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> source: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i >= p.n {
        return;
    }
    let ox = i % p.out_width;
    let oy = i / p.out_width % p.out_height;
    let image = i / (p.out_width * p.out_height);
    let iy = min(u32(f32(oy) * p.scale_y), p.height - 1u);
    let ix = min(u32(f32(ox) * p.scale_x), p.width - 1u);
    y[i] = valid(image, iy, ix);
}
