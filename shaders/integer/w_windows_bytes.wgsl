#import common/codes.wgsl

// The right operand of a convolution's gradient with respect to its weights: k is an output pixel, column n runs over
// (ky, kx, channel) of its window in an image of codes [B, H, W, C], less the stored zero; any C.

@group(0) @binding(2) var<storage, read> w: array<u32>;

fn load_w(column: u32, k: u32) -> f32 {
    let tap = column / p.channels;
    let ky = tap / p.kernel_width;
    let pixels = p.out_height * p.out_width;
    let b = k / pixels;
    let pixel = k - b * pixels;
    let oy = pixel / p.out_width;
    // In the padding before the image a coordinate is negative, that is a huge unsigned one.
    let y = oy * p.stride + ky * p.dilation - p.padding;
    let x_ = (pixel - oy * p.out_width) * p.stride + (tap - ky * p.kernel_width) * p.dilation - p.padding;
    if column < p.n && k < p.k && y < p.height && x_ < p.width {
        let i = ((b * p.height + y) * p.width + x_) * p.channels + column - tap * p.channels;
        return f32(code_of(w[i / 4u], i)) - stored_zero();
    }
    return 0.0;
}

fn row(column: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(load_w(column, k), load_w(column + 1u, k), load_w(column + 2u, k), load_w(column + 3u, k));
}

fn block_w(column: u32, group: u32, k: u32) -> mat4x4<f32> {
    return mat4x4<f32>(row(column, k), row(column, k + 1u), row(column, k + 2u), row(column, k + 3u));
}
