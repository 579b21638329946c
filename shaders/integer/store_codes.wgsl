// The result as codes, made from floats of the type that they would have in memory.
fn store(i: u32, v: vec4<f32>, channels: Channels) {
    store_codes(i, as_stored(v), channels);
}
