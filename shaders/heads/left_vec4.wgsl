@group(0) @binding(1) var<storage, read> left: array<element_left4>;

// Four neighbouring elements; where there is one, there are four.
fn read_left(at: u32, valid: u32) -> vec4<f32> {
    return vec4<f32>(left[at / 4u]);
}
