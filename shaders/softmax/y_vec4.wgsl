@group(0) @binding(3) var<storage, read_write> y: array<element_x4>;

fn write_y(row: u32, piece: u32, v: vec4<f32>) {
    y[row * p.pieces + piece] = element_x4(v);
}
