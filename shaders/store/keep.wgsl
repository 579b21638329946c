// The floats, beside their codes.

@group(0) @binding(AT_Y) var<storage, read_write> y: array<element_y4>;

fn keep(i: u32, v: vec4<f32>) {
    y[i] = element_y4(v);
}
