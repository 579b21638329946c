// The result as floats.

@group(0) @binding(AT_Y) var<storage, read_write> y: array<element_y4>;

// No quantizer follows.
fn step_of(i: u32) -> vec4<f32> {
    return vec4<f32>();
}

fn next_step() -> vec4<f32> {
    return vec4<f32>();
}

fn store(i: u32, v: vec4<f32>, channels: Channels) {
    y[i] = element_y4(v);
}
