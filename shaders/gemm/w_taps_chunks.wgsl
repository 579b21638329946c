// The right operand of a convolution's gradient with respect to its image in chunks of eight: weights [channels of d_y, taps, n],
// k runs over (tap of the phase, channel of d_y); n, the channel of the image, is contiguous and a multiple of 8.

@group(0) @binding(2) var<storage, read> w: array<RawW>;

struct RowW {
    offset: u32,
    valid: bool,
}

fn row_w(column: u32, group: u32) -> RowW {
    return RowW(column / 8u, column < p.n);
}

fn tap_w(k: u32, group: u32) -> Tap {
    return tap_of(k, group);
}

fn load_w(row: RowW, tap: Tap) -> RawW {
    if row.valid && tap.valid {
        return w[(tap.channel * (p.kernel_height * p.kernel_width) + tap.tap) * (p.n / 8u) + row.offset];
    }
    return RawW();
}
