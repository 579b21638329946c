@group(0) @binding(3) var<storage, read_write> y: array<element_y4>;

// The values of a word of codes, which share a step size.
fn write_piece(word: u32, code: vec4<f32>) {
    var group = 0u;
    if p.groups > 1u {
        group = word * 4u / p.inner % p.groups;
    }
    let s = state[group];
    y[word] = element_y4(s.x * (code - s.w));
}
