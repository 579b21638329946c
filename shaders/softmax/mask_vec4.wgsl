@group(0) @binding(2) var<storage, read> mask: array<vec4<u32>>;

fn read_mask(row: u32, piece: u32) -> vec4<u32> {
    return mask[row * (p.keys / 4u) + piece];
}
