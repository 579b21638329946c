// The left operand of a convolution's gradient with respect to its image in chunks of eight: row m is an image pixel, k a tap
// and channel of d_y [B, H', W', channels], channels a multiple of 8.

@group(0) @binding(1) var<storage, read> x: array<RawX>;

// The output pixel whose window has the image pixel at the first tap of its phase: where it lies, perhaps outside.
struct RowX {
    offset: u32,
    oy: u32,
    ox: u32,
}

// How many output pixels before that one.
struct TapX {
    offset: u32,
    oy: u32,
    ox: u32,
}

// The tap and channel of a k of a slice. Where a slice is of one tap (ALIGNED) that is the same for all invocations.
fn slice_tap(first: u32, within: u32, group: u32) -> Tap {
    if ALIGNED {
        let tap = tap_of(first, group);
        return Tap(tap.oy, tap.ox, tap.channel + within, tap.tap, true);
    }
    return tap_of(first + within, group);
}

// A row past the last is the last: what comes of it is not stored.
fn row_x(row: u32, group: u32) -> RowX {
    let pixel = pixel_of(min(row, p.m - 1u), group);
    return RowX(((pixel.image + pixel.oy) * p.out_width + pixel.ox) * p.channels, pixel.oy, pixel.ox);
}

fn tap_x(first: u32, within: u32, group: u32) -> TapX {
    let tap = slice_tap(first, within, group);
    // What is outside for every pixel.
    let oy = select(0x80000000u, tap.oy, tap.valid);
    return TapX((tap.oy * p.out_width + tap.ox) * p.channels - tap.channel, oy, tap.ox);
}

fn load_x(row: RowX, tap: TapX) -> RawX {
    // A difference below zero is a huge unsigned number.
    if row.oy - tap.oy < p.out_height && row.ox - tap.ox < p.out_width {
        return x[(row.offset - tap.offset) / 8u];
    }
    return RawX();
}
