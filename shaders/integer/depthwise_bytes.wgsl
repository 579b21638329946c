// Four channels of a pixel with any number of them.
fn code_x(pixel: u32, channel: u32) -> f32 {
    if channel >= p.n {
        return 0.0;
    }
    let i = pixel * p.n + channel;
    return f32(code_of(x[i / 4u], i));
}

fn load_x(pixel: u32, piece: u32) -> vec4<f32> {
    let c = piece * 4u;
    return vec4<f32>(code_x(pixel, c), code_x(pixel, c + 1u), code_x(pixel, c + 2u), code_x(pixel, c + 3u));
}
