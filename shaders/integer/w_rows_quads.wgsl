// The right operand: rows of codes [n, k], k a multiple of 16, sixteen codes a load.

@group(0) @binding(2) var<storage, read> w: array<vec4<u32>>;

fn load_w(row: u32, k: u32) -> vec4<u32> {
    if row < p.n && k < p.k {
        return w[(product * p.n + row) * (p.k / 16u) + k / 16u];
    }
    return vec4<u32>();
}

fn block_w(row: u32, k: u32) -> Block {
    return block_of(load_w(row, k), load_w(row + 1u, k), load_w(row + 2u, k), load_w(row + 3u, k));
}
