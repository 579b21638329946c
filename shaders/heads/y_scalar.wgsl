@group(0) @binding(AT_Y) var<storage, read_write> y: array<element_y>;

// Stores up to four neighbouring elements: the `valid` ones, at least one.
fn write_y(at: u32, v: vec4<f32>, valid: u32) {
    y[at] = element_y(v.x);
    if valid > 1u {
        y[at + 1u] = element_y(v.y);
    }
    if valid > 2u {
        y[at + 2u] = element_y(v.z);
    }
    if valid > 3u {
        y[at + 3u] = element_y(v.w);
    }
}
