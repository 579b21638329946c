// The left operand of a convolution's gradient with respect to its image: row m is an image pixel, k a tap and channel of d_y
// [B, H', W', channels], any number of channels.

@group(0) @binding(1) var<storage, read> x: array<element_x>;

// Four neighbouring pixels of a phase.
struct LaneX {
    pixels: array<Pixel, 4>,
    group: u32,
}

fn lane_x(row: u32, group: u32) -> LaneX {
    let pixels = array<Pixel, 4>(pixel_of(row, group), pixel_of(row + 1u, group), pixel_of(row + 2u, group), pixel_of(row + 3u, group));
    return LaneX(pixels, group);
}

fn load_x(pixel: Pixel, tap: Tap) -> f32 {
    if exists(pixel, tap) {
        return f32(x[source_of(pixel, tap)]);
    }
    return 0.0;
}

fn column(lane: LaneX, k: u32) -> vec4<f32> {
    let tap = tap_of(k, lane.group);
    let pixels = lane.pixels;
    return vec4<f32>(load_x(pixels[0], tap), load_x(pixels[1], tap), load_x(pixels[2], tap), load_x(pixels[3], tap));
}

fn block_x(lane: LaneX, k: u32) -> mat4x4<f32> {
    return mat4x4<f32>(column(lane, k), column(lane, k + 1u), column(lane, k + 2u), column(lane, k + 3u));
}
