// The result as floats.

@group(0) @binding(AT_Y) var<storage, read_write> y: array<element_y4>;

fn store(i: u32, v: vec4<f32>) {
    y[i] = element_y4(v);
}
