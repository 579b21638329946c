// The right operand of a convolution's gradient with respect to its weights in chunks of eight: k is an output pixel, column n
// runs over (ky, kx, channel) of its window in an image [B, H, W, C]; C is a multiple of 8.

@group(0) @binding(2) var<storage, read> w: array<RawW>;

// A tap and channel, and how far from a window's beginning that is.
struct RowW {
    offset: u32,
    y: u32,
    x: u32,
}

// Where the window of an output pixel begins. In the padding before the image a coordinate is negative, that is a huge
// unsigned one.
struct TapW {
    offset: u32,
    y: u32,
    x: u32,
}

// A column past the last is among the last eight: what comes of it is not stored.
fn row_w(at: u32, group: u32) -> RowW {
    let column = min(at, p.n - 8u);
    let tap = column / p.channels;
    let ky = tap / p.kernel_width;
    let y = ky * p.dilation;
    let x = (tap - ky * p.kernel_width) * p.dilation;
    return RowW((y * p.width + x) * p.channels + column - tap * p.channels, y, x);
}

fn tap_w(first: u32, within: u32, group: u32) -> TapW {
    let k = first + within;
    let pixels = p.out_height * p.out_width;
    let b = k / pixels;
    let pixel = k - b * pixels;
    let oy = pixel / p.out_width;
    let y = oy * p.stride - p.padding;
    let x = (pixel - oy * p.out_width) * p.stride - p.padding;
    // Past the last pixel all is outside.
    return TapW(((b * p.height + y) * p.width + x) * p.channels, select(0x80000000u, y, k < p.k), x);
}

fn load_w(row: RowW, tap: TapW) -> RawW {
    if tap.y + row.y < p.height && tap.x + row.x < p.width {
        return w[(tap.offset + row.offset) / 8u];
    }
    return outside_w();
}
