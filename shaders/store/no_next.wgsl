// There is no second quantizer.
fn store_next(i: u32, stored: vec4<f32>) {}
