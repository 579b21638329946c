// The left operand of a convolution's gradient with respect to its image in chunks of eight: row m is an image pixel, k a tap
// and channel of d_y [B, H', W', channels], channels a multiple of 8.

alias RowX = Pixel;

@group(0) @binding(1) var<storage, read> x: array<RawX>;

fn row_x(row: u32, group: u32) -> Pixel {
    return pixel_of(row, group);
}

fn tap_x(k: u32, group: u32) -> Tap {
    return tap_of(k, group);
}

fn load_x(row: Pixel, tap: Tap) -> RawX {
    if exists(row, tap) {
        return x[source_of(row, tap) / 8u];
    }
    return RawX();
}
