#import common/index.wgsl
#import common/codes.wgsl

// y[b, oy, ox, c] = finish(sum over taps of x[b, iy, ix, c] * w[c, ky, kx]) on codes; outside of the image stands the code of
// zero. An invocation computes PIXELS neighbouring pixels of a row for four channels. Sums of a few taps are exact in f32.

struct Params {
    // output pixels and channels
    m: u32,
    n: u32,
    // invocations: strips of PIXELS pixels times pieces of four channels
    invocations: u32,
    height: u32,
    width: u32,
    pieces: u32,
    out_height: u32,
    out_width: u32,
    stride: u32,
    padding: u32,
    dilation: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read> w: array<u32>;
@group(0) @binding(AT_STATE) var<storage, read> x_state: array<vec4<f32>>;

fn code_w(channel: u32, tap: u32) -> f32 {
    if channel >= p.n {
        return 0.0;
    }
    let i = channel * TAPS + tap;
    return f32(code_of(w[i / 4u], i));
}

fn load_w(piece: u32, tap: u32) -> vec4<f32> {
    let c = piece * 4u;
    return vec4<f32>(code_w(c, tap), code_w(c + 1u, tap), code_w(c + 2u, tap), code_w(c + 3u, tap));
}

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i >= p.invocations {
        return;
    }
    let strips = (p.out_width + PIXELS - 1u) / PIXELS;
    let piece = i % p.pieces;
    let ox = i / p.pieces % strips * PIXELS;
    let row = i / (p.pieces * strips);
    let oy = row % p.out_height;
    let image = row / p.out_height * p.height;
    let outside = vec4<f32>(x_state[0].w);

    var sums: array<vec4<f32>, PIXELS>;
    for (var o = 0u; o < PIXELS; o++) {
        sums[o] = vec4<f32>();
    }
    for (var ky = 0u; ky < KERNEL_HEIGHT; ky++) {
        // A coordinate left of or above the image is a huge unsigned number.
        let iy = oy * p.stride + ky * p.dilation - p.padding;
        for (var kx = 0u; kx < KERNEL_WIDTH; kx++) {
            let weight = load_w(piece, ky * KERNEL_WIDTH + kx);
            for (var o = 0u; o < PIXELS; o++) {
                let ix = (ox + o) * p.stride + kx * p.dilation - p.padding;
                var v = outside;
                if iy < p.height && ix < p.width {
                    v = load_x((image + iy) * p.width + ix, piece);
                }
                sums[o] += weight * v;
            }
        }
    }
    for (var o = 0u; o < PIXELS; o++) {
        if ox + o < p.out_width {
            store_sums(row * p.out_width + ox + o, piece * 4u, vec4<i32>(sums[o]));
        }
    }
}
