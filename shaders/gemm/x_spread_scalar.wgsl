// The left operand of a convolution's gradient with respect to its image: row m is an image pixel, k runs over
// (ky, kx, channel of d_y), and the element is that of the output pixel whose window has the image pixel at (ky, kx),
// if there is one. d_y is [B, H', W', channels], any number of channels.

@group(0) @binding(1) var<storage, read> x: array<element_x>;

// An image pixel, in coordinates that begin in the padding.
struct Pixel {
    image: u32,
    y: u32,
    x: u32,
    valid: bool,
}

// Four neighbouring image pixels.
struct LaneX {
    pixels: array<Pixel, 4>,
}

fn pixel_of(row: u32) -> Pixel {
    let pixels = p.height * p.width;
    let b = row / pixels;
    let pixel = row - b * pixels;
    let y = pixel / p.width;
    return Pixel(b * p.out_height, y + p.padding, pixel - y * p.width + p.padding, row < p.m);
}

fn lane_x(row: u32, group: u32) -> LaneX {
    return LaneX(array<Pixel, 4>(pixel_of(row), pixel_of(row + 1u), pixel_of(row + 2u), pixel_of(row + 3u)));
}

fn load_x(pixel: Pixel, k: u32) -> f32 {
    let tap = k / p.channels;
    let ky = tap / p.kernel_width;
    // A negative difference is a huge unsigned one, and no output pixel.
    let y = pixel.y - ky * p.dilation;
    let x_ = pixel.x - (tap - ky * p.kernel_width) * p.dilation;
    let oy = y / p.stride;
    let ox = x_ / p.stride;
    let exists = oy * p.stride == y && ox * p.stride == x_ && oy < p.out_height && ox < p.out_width;
    if exists && pixel.valid && k < p.k {
        return f32(x[((pixel.image + oy) * p.out_width + ox) * p.channels + k - tap * p.channels]);
    }
    return 0.0;
}

fn column(lane: LaneX, k: u32) -> vec4<f32> {
    let pixels = lane.pixels;
    return vec4<f32>(load_x(pixels[0], k), load_x(pixels[1], k), load_x(pixels[2], k), load_x(pixels[3], k));
}

fn block_x(lane: LaneX, k: u32) -> mat4x4<f32> {
    return mat4x4<f32>(column(lane, k), column(lane, k + 1u), column(lane, k + 2u), column(lane, k + 3u));
}
