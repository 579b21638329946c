// The right operand of a convolution's gradient with respect to its weights in chunks of eight: k is an output pixel, column n
// runs over (ky, kx, channel) of its window in an image [B, H, W, C]; C is a multiple of 8.

@group(0) @binding(2) var<storage, read> w: array<RawW>;

// A tap and channel.
struct RowW {
    y: u32,
    x: u32,
    channel: u32,
    valid: bool,
}

// Where the window of an output pixel begins. In the padding before the image a coordinate is negative, that is a huge
// unsigned one.
struct TapW {
    image: u32,
    y: u32,
    x: u32,
    valid: bool,
}

fn row_w(column: u32, group: u32) -> RowW {
    let tap = column / p.channels;
    let ky = tap / p.kernel_width;
    return RowW(ky * p.dilation, (tap - ky * p.kernel_width) * p.dilation, column - tap * p.channels, column < p.n);
}

fn tap_w(k: u32, group: u32) -> TapW {
    let pixels = p.out_height * p.out_width;
    let b = k / pixels;
    let pixel = k - b * pixels;
    let oy = pixel / p.out_width;
    return TapW(b * p.height, oy * p.stride - p.padding, (pixel - oy * p.out_width) * p.stride - p.padding, k < p.k);
}

fn load_w(row: RowW, tap: TapW) -> RawW {
    let y = tap.y + row.y;
    let x_ = tap.x + row.x;
    if row.valid && tap.valid && y < p.height && x_ < p.width {
        return w[(((tap.image + y) * p.width + x_) * p.channels + row.channel) / 8u];
    }
    return RawW();
}
