// The floats, which nothing reads.
fn keep(i: u32, v: vec4<f32>) {}
