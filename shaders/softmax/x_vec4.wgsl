@group(0) @binding(1) var<storage, read> x: array<element_x4>;

// Rows of whole pieces.
fn read_x(row: u32, piece: u32) -> vec4<f32> {
    return vec4<f32>(x[row * (p.pitch / 4u) + piece]);
}
