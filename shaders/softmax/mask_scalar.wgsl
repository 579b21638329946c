@group(0) @binding(2) var<storage, read> mask: array<u32>;

// Behind the end the last column is read again.
fn read_mask(row: u32, piece: u32) -> vec4<u32> {
    let start = row * p.keys;
    let last = p.keys - 1u;
    let at = piece * 4u;
    return vec4<u32>(
        mask[start + min(at, last)],
        mask[start + min(at + 1u, last)],
        mask[start + min(at + 2u, last)],
        mask[start + min(at + 3u, last)],
    );
}
