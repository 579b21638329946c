// The right operand of a convolution's gradient with respect to its weights: k is an output pixel, column n runs over
// (ky, kx, channel) of its window in an image of codes [B, H, W, C], less the stored zero; C is a multiple of 4.

@group(0) @binding(2) var<storage, read> w: array<u32>;

fn load_w(tap: vec2<u32>, channel: u32, k: u32, valid: bool) -> vec4<f32> {
    let pixels = p.out_height * p.out_width;
    let b = k / pixels;
    let pixel = k - b * pixels;
    let oy = pixel / p.out_width;
    // In the padding before the image a coordinate is negative, that is a huge unsigned one.
    let y = oy * p.stride + tap.x - p.padding;
    let x_ = (pixel - oy * p.out_width) * p.stride + tap.y - p.padding;
    if valid && k < p.k && y < p.height && x_ < p.width {
        return vec4<f32>(unpack4xI8(w[(((b * p.height + y) * p.width + x_) * p.channels + channel) / 4u])) - stored_zero();
    }
    return vec4<f32>();
}

fn block_w(column: u32, group: u32, k: u32) -> mat4x4<f32> {
    let tap = column / p.channels;
    let ky = tap / p.kernel_width;
    let place = vec2<u32>(ky, tap - ky * p.kernel_width) * p.dilation;
    let channel = column - tap * p.channels;
    let valid = column < p.n;
    return mat4x4<f32>(
        load_w(place, channel, k, valid),
        load_w(place, channel, k + 1u, valid),
        load_w(place, channel, k + 2u, valid),
        load_w(place, channel, k + 3u, valid),
    );
}
