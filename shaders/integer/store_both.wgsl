// The result as floats and as codes, made from what is stored of the floats.

@group(0) @binding(AT_Y) var<storage, read_write> y: array<element_y4>;

fn store(i: u32, v: vec4<f32>, channels: Channels) {
    let stored = as_stored(v);
    y[i] = element_y4(stored);
    store_codes(i, stored, channels);
}
