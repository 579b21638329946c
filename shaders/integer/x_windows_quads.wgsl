// The left operand of a convolution: windows of codes [B, H, W, C], C a multiple of 16, sixteen codes a load.

@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;

fn load_x(row: RowX, place: Place) -> vec4<u32> {
    if is_inside(row, place) {
        return x[(row.offset + place.offset) >> 4u];
    }
    return vec4<u32>(padding());
}

fn block_x(lane: LaneX, k: u32) -> Block {
    let place = place_of(k);
    let rows = lane.rows;
    return block_of(load_x(rows[0], place), load_x(rows[1], place), load_x(rows[2], place), load_x(rows[3], place));
}
