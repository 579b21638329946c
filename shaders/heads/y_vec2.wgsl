@group(0) @binding(AT_Y) var<storage, read_write> y: array<element_y2>;

// Stores up to four neighbouring elements: the `valid` ones, two or more.
fn write_y(at: u32, v: vec4<f32>, valid: u32) {
    y[at / 2u] = element_y2(v.xy);
    if valid > 2u {
        y[at / 2u + 1u] = element_y2(v.zw);
    }
}
