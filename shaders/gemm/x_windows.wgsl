#import common/transposed.wgsl

// The left operand of a convolution: windows of an image [B, H, W, C], channels per group a multiple of 4.

@group(0) @binding(1) var<storage, read> x: array<element_x4>;

// The windows of four neighbouring output pixels.
struct LaneX {
    rows: array<RowX, 4>,
}

fn lane_x(row: u32, group: u32) -> LaneX {
    return LaneX(array<RowX, 4>(row_x(row, group), row_x(row + 1u, group), row_x(row + 2u, group), row_x(row + 3u, group)));
}

fn load_x(row: RowX, place: Place) -> vec4<f32> {
    if is_inside(row, place) {
        return vec4<f32>(x[(row.offset + place.offset) >> 2u]);
    }
    return vec4<f32>();
}

fn block_x(lane: LaneX, k: u32) -> mat4x4<f32> {
    let place = place_of(k);
    let rows = lane.rows;
    return transposed(load_x(rows[0], place), load_x(rows[1], place), load_x(rows[2], place), load_x(rows[3], place));
}
