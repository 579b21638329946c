// What is added to the result of a product lies where the result will: the invocation that stores an element has read it before.
fn residual_at(i: u32) -> vec4<f32> {
    return vec4<f32>(y[i]);
}
