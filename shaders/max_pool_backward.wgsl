#import common/index.wgsl

// d_x = the sum of d_y over the windows whose maximum a pixel is. Where several pixels of a window are equal, the first one in
// reading order counts, as in PyTorch. Every pixel gathers from the windows that cover it: no atomics, a fixed order.

struct Params {
    n: u32,
    height: u32,
    width: u32,
    // channels
    pieces: u32,
    out_height: u32,
    out_width: u32,
    kernel: u32,
    stride: u32,
    padding: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<element>;
@group(0) @binding(2) var<storage, read> y: array<element>;
@group(0) @binding(3) var<storage, read> d_y: array<element>;
@group(0) @binding(4) var<storage, read_write> d_x: array<element>;

// Whether a pixel before (iy, ix) in the window of (oy, ox) has the value, too.
fn has_earlier(value: element, plane: u32, iy: u32, ix: u32, oy: u32, ox: u32) -> bool {
    let y_start = max(oy * p.stride, p.padding) - p.padding;
    let x_start = max(ox * p.stride, p.padding) - p.padding;
    let x_end = min(ox * p.stride + p.kernel - p.padding, p.width);
    for (var row = y_start; row <= iy; row++) {
        for (var column = x_start; column < select(x_end, ix, row == iy); column++) {
            if x[plane + (row * p.width + column) * p.pieces] == value {
                return true;
            }
        }
    }
    return false;
}

// The first window that covers a coordinate.
fn first_window(i: u32) -> u32 {
    return (max(i + p.padding + 1u, p.kernel) - p.kernel + p.stride - 1u) / p.stride;
}

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i >= p.n {
        return;
    }
    let channel = i % p.pieces;
    let ix = i / p.pieces % p.width;
    let row = i / (p.pieces * p.width);
    let iy = row % p.height;
    let image = row / p.height;
    let plane = image * p.height * p.width * p.pieces + channel;
    let value = x[i];
    let y_end = min((iy + p.padding) / p.stride + 1u, p.out_height);
    let x_end = min((ix + p.padding) / p.stride + 1u, p.out_width);
    var sum = 0.0;
    for (var oy = first_window(iy); oy < y_end; oy++) {
        for (var ox = first_window(ix); ox < x_end; ox++) {
            let o = ((image * p.out_height + oy) * p.out_width + ox) * p.pieces + channel;
            if y[o] == value {
                if !has_earlier(value, plane, iy, ix, oy, ox) {
                    sum += f32(d_y[o]);
                }
            }
        }
    }
    d_x[i] = element(sum);
}
