// Four channels of a pixel whose channels are a multiple of 4.
fn load_x(pixel: u32, piece: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(x[pixel * p.pieces + piece]));
}
