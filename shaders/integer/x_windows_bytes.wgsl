#import common/codes.wgsl

// The left operand of a convolution: windows of codes [B, H, W, C], any C.

@group(0) @binding(1) var<storage, read> x: array<u32>;

fn byte_x(row: RowX, place: Place) -> u32 {
    if is_inside(row, place) {
        let i = u32(row.offset + place.offset);
        return byte_of(x[i / 4u], i);
    }
    return padding() & 0xffu;
}

fn words_x(lane: LaneX, k: u32) -> vec4<u32> {
    var words = vec4<u32>();
    let rows = lane.rows;
    for (var j = 0u; j < 4u; j++) {
        let place = place_of(k + j);
        let bytes = vec4<u32>(byte_x(rows[0], place), byte_x(rows[1], place), byte_x(rows[2], place), byte_x(rows[3], place));
        words |= bytes << vec4<u32>(j * 8u);
    }
    return words;
}
