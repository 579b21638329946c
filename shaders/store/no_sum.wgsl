// All codes are of the result itself.
fn with_addend(i: u32, stored: vec4<f32>) -> vec4<f32> {
    return stored;
}
