// The geometry of a convolution's gradient with respect to its image as a GEMM.
//
// A window that moves by `stride` pixels has a pixel at its tap (ky, kx) only if (y + padding - ky * dilation) is a multiple of the
// stride, so pixels fall into stride * stride phases (py, px), by (y + padding) % stride, each with taps of its own: ky = py,
// py + stride, ... The phases are the groups of the GEMM; row m is a pixel of its phase, k runs over (tap of the phase, channel
// of d_y). A convolution has a stride or a dilation here, not both.

struct Params {
    // images * rows_height * rows_width
    m: u32,
    n: u32,
    // of the phase with the most taps
    k: u32,
    tiles_m: u32,
    tiles_n: u32,
    groups: u32,
    // at least p.k
    split_k: u32,
    splits: u32,
    // of the image
    height: u32,
    width: u32,
    // of d_y
    channels: u32,
    out_height: u32,
    out_width: u32,
    kernel_height: u32,
    kernel_width: u32,
    stride: u32,
    padding: u32,
    dilation: u32,
    // of the phase with the most pixels
    rows_height: u32,
    rows_width: u32,
}

@group(0) @binding(0) var<uniform> p: Params;

// An image pixel: where it lies, and the output pixel whose window has it at the first tap of its phase, perhaps outside.
struct Pixel {
    place: u32,
    image: u32,
    oy: u32,
    ox: u32,
    valid: bool,
}

// A tap and channel.
struct Tap {
    // how many output pixels before the first one
    oy: u32,
    ox: u32,
    channel: u32,
    // among all taps of the kernel
    tap: u32,
    valid: bool,
}

fn phase_of(group: u32) -> vec2<u32> {
    let py = group / p.stride;
    return vec2<u32>(py, group - py * p.stride);
}

fn taps_of(phase: vec2<u32>) -> vec2<u32> {
    return (vec2<u32>(p.kernel_height, p.kernel_width) + p.stride - 1u - phase) / p.stride;
}

fn k_of(group: u32) -> u32 {
    let taps = taps_of(phase_of(group));
    return taps.x * taps.y * p.channels;
}

fn pixel_of(row: u32, group: u32) -> Pixel {
    let phase = phase_of(group);
    let pixels = p.rows_height * p.rows_width;
    let b = row / pixels;
    let pixel = row - b * pixels;
    let iy = pixel / p.rows_width;
    let ix = pixel - iy * p.rows_width;
    let first = (phase + p.stride - p.padding % p.stride) % p.stride;
    let y = iy * p.stride + first.x;
    let x = ix * p.stride + first.y;
    let oy = (y + p.padding - phase.x) / p.stride;
    let ox = (x + p.padding - phase.y) / p.stride;
    let valid = row < p.m && y < p.height && x < p.width;
    return Pixel((b * p.height + y) * p.width + x, b * p.out_height, oy, ox, valid);
}

fn tap_of(k: u32, group: u32) -> Tap {
    let phase = phase_of(group);
    let taps = taps_of(phase);
    let tap = k / p.channels;
    let j = tap / max(taps.y, 1u);
    let i = tap - j * taps.y;
    let at = (phase.x + j * p.stride) * p.kernel_width + phase.y + i * p.stride;
    return Tap(j * p.dilation, i * p.dilation, k - tap * p.channels, at, j < taps.x && taps.y > 0u);
}

// Whether the pixel has an output pixel at the tap. A difference below zero is a huge unsigned number.
fn exists(pixel: Pixel, tap: Tap) -> bool {
    return pixel.valid && tap.valid && pixel.oy - tap.oy < p.out_height && pixel.ox - tap.ox < p.out_width;
}

// The flat index of that output pixel's channel.
fn source_of(pixel: Pixel, tap: Tap) -> u32 {
    return ((pixel.image + pixel.oy - tap.oy) * p.out_width + pixel.ox - tap.ox) * p.channels + tap.channel;
}

fn channel_of(column: u32, group: u32) -> u32 {
    return column;
}

fn place_of_y(row: u32, column: u32, group: u32, split: u32) -> u32 {
    if p.stride == 1u {
        return row * p.n + column;
    }
    return pixel_of(row, group).place * p.n + column;
}

fn is_stored(row: u32, group: u32) -> bool {
    if p.stride == 1u {
        return row < p.m;
    }
    return pixel_of(row, group).valid;
}
