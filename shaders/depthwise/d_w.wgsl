// Partial sums of d_w[c, ky, kx] = Σ x[b, iy, ix, c] · d_y[b, oy, ox, c]. A workgroup takes COLUMNS channels and the output
// pixels of one part; GROUP / COLUMNS invocations share a channel, each with every so many of the pixels and all taps.

struct Params {
    pixels: u32,
    chunk: u32,
    height: u32,
    width: u32,
    channels: u32,
    out_height: u32,
    out_width: u32,
    stride: u32,
    padding: u32,
    dilation: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<element>;
@group(0) @binding(2) var<storage, read> d_y: array<element>;
@group(0) @binding(3) var<storage, read_write> d_w: array<f32>;

const TAPS = KERNEL_HEIGHT * KERNEL_WIDTH;
const STRIPES = GROUP / COLUMNS;

var<workgroup> cells: array<f32, GROUP>;

@compute @workgroup_size(GROUP)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let channel = group.x * COLUMNS + local % COLUMNS;
    let stripe = local / COLUMNS;
    let part = group.y;
    let inside = channel < p.channels;
    var sums: array<f32, TAPS>;
    for (var t = 0u; t < TAPS; t++) {
        sums[t] = 0.0;
    }
    let end = select(0u, min((part + 1u) * p.chunk, p.pixels), inside);
    for (var pixel = part * p.chunk + stripe; pixel < end; pixel += STRIPES) {
        let d = f32(d_y[pixel * p.channels + channel]);
        let ox = pixel % p.out_width;
        let row = pixel / p.out_width;
        let oy = row % p.out_height;
        let image = row / p.out_height * p.height;
        for (var ky = 0u; ky < KERNEL_HEIGHT; ky++) {
            // A coordinate left of or above the image is a huge unsigned number.
            let iy = oy * p.stride + ky * p.dilation - p.padding;
            for (var kx = 0u; kx < KERNEL_WIDTH; kx++) {
                let ix = ox * p.stride + kx * p.dilation - p.padding;
                if iy < p.height && ix < p.width {
                    sums[ky * KERNEL_WIDTH + kx] += d * f32(x[((image + iy) * p.width + ix) * p.channels + channel]);
                }
            }
        }
    }
    for (var t = 0u; t < TAPS; t++) {
        cells[local] = sums[t];
        workgroupBarrier();
        if stripe == 0u && inside {
            var sum = 0.0;
            for (var i = local; i < GROUP; i += COLUMNS) {
                sum += cells[i];
            }
            d_w[(part * p.channels + channel) * TAPS + t] = sum;
        }
        workgroupBarrier();
    }
}
