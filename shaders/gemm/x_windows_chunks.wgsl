// The left operand of a convolution in chunks of CHUNK elements: windows of an image [B, H, W, C], channels per group a multiple of CHUNK.

@group(0) @binding(1) var<storage, read> x: array<RawX>;

fn tap_x(k: u32, group: u32) -> Place {
    return place_of(k);
}

fn load_x(row: RowX, tap: Place) -> RawX {
    if is_inside(row, tap) {
        return x[u32(row.offset + tap.offset) / CHUNK];
    }
    return outside_x();
}
