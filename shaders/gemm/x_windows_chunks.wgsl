// The left operand of a convolution in chunks of CHUNK elements: windows of an image [B, H, W, C], channels per group a multiple of CHUNK.

@group(0) @binding(1) var<storage, read> x: array<RawX>;

fn tap_x(first: u32, within: u32, group: u32) -> Place {
    if ALIGNED {
        // All of the slice is of one tap, which is the same for all invocations.
        let place = place_of(first);
        return Place(place.offset + i32(within), place.y, place.x);
    }
    return place_of(first + within);
}

fn load_x(row: RowX, tap: Place) -> RawX {
    if (ALIGNED && !PADDED) || is_inside(row, tap) {
        return x[u32(row.offset + tap.offset) / CHUNK];
    }
    return outside_x();
}
