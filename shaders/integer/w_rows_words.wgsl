// The right operand: rows of codes [n, k], k a multiple of 4.

@group(0) @binding(2) var<storage, read> w: array<u32>;

fn word_w(row: u32, k: u32) -> u32 {
    if row < p.n && k < p.k {
        return w[(product * p.n + row) * (p.k / 4u) + k / 4u];
    }
    return 0u;
}

fn words_w(row: u32, k: u32) -> vec4<u32> {
    return vec4<u32>(word_w(row, k), word_w(row + 1u, k), word_w(row + 2u, k), word_w(row + 3u, k));
}
