// The left operand of a convolution: windows of codes [B, H, W, C], C a multiple of 4.

@group(0) @binding(1) var<storage, read> x: array<u32>;

fn word_x(row: RowX, place: Place) -> u32 {
    if is_inside(row, place) {
        return x[(row.offset + place.offset) >> 2u];
    }
    return padding();
}

fn words_x(lane: LaneX, k: u32) -> vec4<u32> {
    let place = place_of(k);
    let rows = lane.rows;
    return vec4<u32>(word_x(rows[0], place), word_x(rows[1], place), word_x(rows[2], place), word_x(rows[3], place));
}
