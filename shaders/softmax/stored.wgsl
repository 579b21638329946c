// What is stored of a result, and then quantized.
fn stored(y: vec4<f32>) -> vec4<f32> {
    if HALF_Y {
        return halves(y, p.rows >> 31u);
    }
    return y;
}
