@group(0) @binding(2) var<storage, read> right: array<element_right4>;

// Four neighbouring elements; where there is one, there are four.
fn read_right(at: u32, valid: u32) -> vec4<f32> {
    return vec4<f32>(right[at / 4u]);
}
