@group(0) @binding(3) var<storage, read_write> y: array<element_y>;

// The values of a word of codes: those that are not behind the end.
fn write_piece(word: u32, code: vec4<f32>) {
    for (var i = 0u; i < 4u; i++) {
        let at = word * 4u + i;
        if at < p.n {
            let s = state[at / p.inner % p.groups];
            y[at] = element_y(s.x * (code[i] - s.w));
        }
    }
}
