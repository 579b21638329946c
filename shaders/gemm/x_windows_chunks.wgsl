// The left operand of a convolution in chunks of eight: windows of an image [B, H, W, C], channels per group a multiple of 8.

@group(0) @binding(1) var<storage, read> x: array<RawX>;

fn tap_x(k: u32, group: u32) -> Place {
    return place_of(k);
}

fn load_x(row: RowX, tap: Place) -> RawX {
    if is_inside(row, tap) {
        return x[(row.offset + tap.offset) >> 3u];
    }
    return outside_x();
}
