// The result as codes, made from floats of the type that they would have in memory.
fn store(i: u32, v: vec4<f32>, step: vec4<f32>) {
    store_codes(i, as_stored(v), step);
}
