// All codes are of the result itself.
fn store_sum(i: u32, stored: vec4<f32>) {}
