@group(0) @binding(1) var<storage, read> x: array<element_x4>;

// The four elements of a word of codes, 1 / alpha and Z for each: here the four share a step size.
fn read_piece(word: u32) -> Piece {
    var group = 0u;
    if p.groups > 1u {
        group = word * 4u / p.inner % p.groups;
    }
    let s = state[group];
    return Piece(vec4<f32>(x[word]), vec4<f32>(s.y), vec4<f32>(s.z));
}
