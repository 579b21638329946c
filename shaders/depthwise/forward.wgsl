#import common/index.wgsl
#import common/epilogue.wgsl

// y[b, oy, ox, c] = activation(scale[c] · Σ x[b, iy, ix, c] · w[c, ky, kx] + shift[c] + residual). An invocation computes
// PIXELS neighbouring pixels of a row for one channel or four, so that each weight is read once for all of them.

struct Params {
    // invocations: strips of PIXELS pixels times pieces of channels
    n: u32,
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
@group(0) @binding(1) var<storage, read> x: array<wide_x>;
@group(0) @binding(3) var<storage, read> scale: array<wide>;
@group(0) @binding(4) var<storage, read> shift: array<wide>;
@group(0) @binding(5) var<storage, read> residual: array<wide_x>;
@group(0) @binding(6) var<storage, read_write> y: array<wide_x>;

fn store(i: u32, piece: u32, sum: wide) {
    var v = sum;
    if HAS_SCALE {
        v *= scale[piece];
    }
    if HAS_SHIFT {
        v += shift[piece];
    }
    if HAS_RESIDUAL {
        v += wide(residual[i]);
    }
    y[i] = wide_x(lanes_of(activate(vec4<f32>(v))));
}

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i >= p.n {
        return;
    }
    let strips = (p.out_width + PIXELS - 1u) / PIXELS;
    let piece = i % p.pieces;
    let ox = i / p.pieces % strips * PIXELS;
    let row = i / (p.pieces * strips);
    let oy = row % p.out_height;
    let image = row / p.out_height * p.height;

    var sums: array<wide, PIXELS>;
    for (var o = 0u; o < PIXELS; o++) {
        sums[o] = wide();
    }
    for (var ky = 0u; ky < KERNEL_HEIGHT; ky++) {
        // A coordinate left of or above the image is a huge unsigned number.
        let iy = oy * p.stride + ky * p.dilation - p.padding;
        if iy < p.height {
            for (var kx = 0u; kx < KERNEL_WIDTH; kx++) {
                let weight = load_w(piece, ky * KERNEL_WIDTH + kx);
                for (var o = 0u; o < PIXELS; o++) {
                    let ix = (ox + o) * p.stride + kx * p.dilation - p.padding;
                    if ix < p.width {
                        sums[o] += weight * wide(x[((image + iy) * p.width + ix) * p.pieces + piece]);
                    }
                }
            }
        }
    }
    for (var o = 0u; o < PIXELS; o++) {
        if ox + o < p.out_width {
            store((row * p.out_width + ox + o) * p.pieces + piece, piece, sums[o]);
        }
    }
}
