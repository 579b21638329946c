#import common/transposed.wgsl

// The left operand of a convolution's gradient with respect to its image: row m is an image pixel, k a tap and channel of d_y
// [B, H', W', channels], channels a multiple of 4.

@group(0) @binding(1) var<storage, read> x: array<element_x4>;

// Four neighbouring pixels of a phase.
struct LaneX {
    pixels: array<Pixel, 4>,
    group: u32,
}

fn lane_x(row: u32, group: u32) -> LaneX {
    let pixels = array<Pixel, 4>(pixel_of(row, group), pixel_of(row + 1u, group), pixel_of(row + 2u, group), pixel_of(row + 3u, group));
    return LaneX(pixels, group);
}

fn load_x(pixel: Pixel, tap: Tap) -> vec4<f32> {
    if exists(pixel, tap) {
        return vec4<f32>(x[source_of(pixel, tap) / 4u]);
    }
    return vec4<f32>();
}

fn block_x(lane: LaneX, k: u32) -> mat4x4<f32> {
    let tap = tap_of(k, lane.group);
    let pixels = lane.pixels;
    return transposed(load_x(pixels[0], tap), load_x(pixels[1], tap), load_x(pixels[2], tap), load_x(pixels[3], tap));
}
