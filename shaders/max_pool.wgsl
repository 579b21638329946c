#import common/index.wgsl

// y[b, oy, ox, c] = the largest x in the window, pixels outside the image left out. One invocation a number or a vec4 of
// numbers; p.pieces counts them in a pixel. A piece stores the results.

struct Params {
    n: u32,
    height: u32,
    width: u32,
    pieces: u32,
    out_height: u32,
    out_width: u32,
    kernel: u32,
    stride: u32,
    padding: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<wide_x>;

// The zero of a rounding barrier.
fn no_bits() -> u32 {
    return p.n >> 31u;
}

// Vectors of results.
fn words() -> u32 {
    return p.n;
}

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i >= p.n {
        return;
    }
    let piece = i % p.pieces;
    let ox = i / p.pieces % p.out_width;
    let row = i / (p.pieces * p.out_width);
    let oy = row % p.out_height;
    let image = row / p.out_height * p.height;
    // The part of the window inside the image; the host made sure that there is one.
    let y_start = max(oy * p.stride, p.padding) - p.padding;
    let x_start = max(ox * p.stride, p.padding) - p.padding;
    let y_end = min(oy * p.stride + p.kernel - p.padding, p.height);
    let x_end = min(ox * p.stride + p.kernel - p.padding, p.width);
    var largest = wide(x[((image + y_start) * p.width + x_start) * p.pieces + piece]);
    for (var iy = y_start; iy < y_end; iy++) {
        for (var ix = x_start; ix < x_end; ix++) {
            largest = max(largest, wide(x[((image + iy) * p.width + ix) * p.pieces + piece]));
        }
    }
    store(i, largest);
}
