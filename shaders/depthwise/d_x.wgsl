#import common/index.wgsl

// d_x[b, iy, ix, c] = Σ d_y[b, oy, ox, c] · w[c, ky, kx] over the taps that reach the pixel. One invocation a pixel, for one
// channel or four.

struct Params {
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
@group(0) @binding(1) var<storage, read> d_y: array<wide_x>;
@group(0) @binding(3) var<storage, read_write> d_x: array<wide_x>;

// The output coordinate whose tap reaches an input coordinate; a huge number when there is none.
fn source(i: u32, tap: u32) -> u32 {
    let reach = i + p.padding - tap * p.dilation;
    return select(0xffffffffu, reach / p.stride, i + p.padding >= tap * p.dilation && reach % p.stride == 0u);
}

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i >= p.n {
        return;
    }
    let piece = i % p.pieces;
    let ix = i / p.pieces % p.width;
    let row = i / (p.pieces * p.width);
    let iy = row % p.height;
    let image = row / p.height * p.out_height;
    var sum = wide();
    for (var ky = 0u; ky < KERNEL_HEIGHT; ky++) {
        let oy = source(iy, ky);
        if oy < p.out_height {
            for (var kx = 0u; kx < KERNEL_WIDTH; kx++) {
                let ox = source(ix, kx);
                if ox < p.out_width {
                    let d = wide(d_y[((image + oy) * p.out_width + ox) * p.pieces + piece]);
                    sum += load_w(piece, ky * KERNEL_WIDTH + kx) * d;
                }
            }
        }
    }
    d_x[i] = wide_x(sum);
}
