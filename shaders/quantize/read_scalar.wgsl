@group(0) @binding(1) var<storage, read> x: array<element_x>;

// The up to four elements of a word of codes, 1 / alpha and Z for each. What lies behind the end becomes the code 0, for which
// element and Z are those of an x of 0 and a Z that is stored as 0.
fn read_piece(word: u32) -> Piece {
    var piece = Piece(vec4<f32>(), vec4<f32>(1.0), vec4<f32>(p.offset));
    for (var i = 0u; i < 4u; i++) {
        let at = word * 4u + i;
        if at < p.n {
            let s = state[at / p.inner % p.groups];
            piece.x[i] = f32(x[at]);
            piece.inverse[i] = s.y;
            piece.zero[i] = s.z;
        }
    }
    return piece;
}
