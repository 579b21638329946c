// The geometry of a convolution as a GEMM: row m is an output pixel, k runs over (ky, kx, channel).

struct Params {
    m: u32,
    n: u32,
    k: u32,
    tiles_m: u32,
    tiles_n: u32,
    groups: u32,
    height: u32,
    width: u32,
    channels: u32,
    group_channels: u32,
    out_height: u32,
    out_width: u32,
    kernel_width: u32,
    stride: u32,
    padding: u32,
    dilation: u32,
    inverse_group_channels: f32,
    inverse_kernel_width: f32,
}

@group(0) @binding(0) var<uniform> p: Params;

// One output pixel: where its window begins in the image, in pixels, possibly in the padding.
struct RowX {
    image: u32,
    channel: u32,
    y: i32,
    x: i32,
    valid: bool,
}

fn row_x(row: u32, group: u32) -> RowX {
    let pixels = p.out_height * p.out_width;
    let b = row / pixels;
    let pixel = row - b * pixels;
    let oy = pixel / p.out_width;
    let ox = pixel - oy * p.out_width;
    let y = i32(oy * p.stride) - i32(p.padding);
    let x = i32(ox * p.stride) - i32(p.padding);
    return RowX(b * p.height, group * p.group_channels, y, x, row < p.m);
}

// n / d by a multiplication with 1/d: exact for n below 2^21, as the host asserts.
fn quotient(n: u32, inverse: f32) -> u32 {
    return u32((f32(n) + 0.5) * inverse);
}

// The flat element index of k in the window of a row, or -1 in the padding.
fn window_index(row: RowX, k: u32) -> i32 {
    let tap = quotient(k, p.inverse_group_channels);
    let channel = k - tap * p.group_channels;
    let ky = quotient(tap, p.inverse_kernel_width);
    let kx = tap - ky * p.kernel_width;
    let y = row.y + i32(ky * p.dilation);
    let x = row.x + i32(kx * p.dilation);
    // A negative coordinate is a huge unsigned one.
    if !row.valid || k >= p.k || u32(y) >= p.height || u32(x) >= p.width {
        return -1;
    }
    return i32(((row.image + u32(y)) * p.width + u32(x)) * p.channels + row.channel + channel);
}
