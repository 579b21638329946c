@group(0) @binding(1) var<storage, read> x: array<element_x2>;

// Rows of whole pairs, which may end within a piece; behind the end the last pair is read again.
fn read_x(row: u32, piece: u32) -> vec4<f32> {
    let pairs = p.pitch / 2u;
    let start = row * pairs;
    let at = piece * 2u;
    return vec4<f32>(vec4<element_x>(x[start + at], x[start + min(at + 1u, pairs - 1u)]));
}
