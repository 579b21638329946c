// The right operand of a convolution's gradient with respect to its image in chunks of eight: weights [channels of d_y, taps, n],
// k runs over (tap of the phase, channel of d_y); n, the channel of the image, is contiguous and a multiple of 8.

@group(0) @binding(2) var<storage, read> w: array<RawW>;

alias RowW = u32;

struct TapW {
    offset: u32,
    valid: bool,
}

// A column past the last is among the last eight: what comes of it is not stored.
fn row_w(column: u32, group: u32) -> RowW {
    return min(column, p.n - 8u) / 8u;
}

fn tap_w(first: u32, within: u32, group: u32) -> TapW {
    let tap = slice_tap(first, within, group);
    return TapW((tap.channel * (p.kernel_height * p.kernel_width) + tap.tap) * (p.n / 8u), tap.valid);
}

fn load_w(row: RowW, tap: TapW) -> RawW {
    if tap.valid {
        return w[row + tap.offset];
    }
    return RawW();
}
