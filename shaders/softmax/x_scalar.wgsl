@group(0) @binding(1) var<storage, read> x: array<element_x>;

// Rows that end within a piece; behind the end the last column is read again.
fn read_x(row: u32, piece: u32) -> vec4<f32> {
    let start = row * p.pitch;
    let last = p.pitch - 1u;
    let at = piece * 4u;
    return vec4<f32>(
        f32(x[start + at]),
        f32(x[start + min(at + 1u, last)]),
        f32(x[start + min(at + 2u, last)]),
        f32(x[start + min(at + 3u, last)]),
    );
}
