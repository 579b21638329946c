#import common/transposed.wgsl

// The left operand of a convolution: windows of an image [B, H, W, C], any number of channels.

@group(0) @binding(1) var<storage, read> x: array<element_x>;

// The windows of four neighbouring output pixels.
struct LaneX {
    rows: array<RowX, 4>,
}

fn lane_x(row: u32, group: u32) -> LaneX {
    return LaneX(array<RowX, 4>(row_x(row, group), row_x(row + 1u, group), row_x(row + 2u, group), row_x(row + 3u, group)));
}

fn load_x(row: RowX, place: Place) -> f32 {
    if is_inside(row, place) {
        return f32(x[row.offset + place.offset]);
    }
    return 0.0;
}

fn column(lane: LaneX, k: u32) -> vec4<f32> {
    let place = place_of(k);
    let rows = lane.rows;
    return vec4<f32>(load_x(rows[0], place), load_x(rows[1], place), load_x(rows[2], place), load_x(rows[3], place));
}

fn block_x(lane: LaneX, k: u32) -> mat4x4<f32> {
    return mat4x4<f32>(column(lane, k), column(lane, k + 1u), column(lane, k + 2u), column(lane, k + 3u));
}
