@group(0) @binding(AT_Y) var<storage, read_write> y: array<element_y4>;

// Stores four neighbouring elements; where there is one, there are four.
fn write_y(at: u32, v: vec4<f32>, valid: u32) {
    y[at / 4u] = element_y4(v);
}
