#import common/codes.wgsl

// The right operand: rows of codes [n, k], any k.

@group(0) @binding(2) var<storage, read> w: array<u32>;

fn byte_w(row: u32, k: u32) -> u32 {
    if row < p.n && k < p.k {
        let i = (product * p.n + row) * p.k + k;
        return byte_of(w[i / 4u], i);
    }
    return 0u;
}

fn word_w(row: u32, k: u32) -> u32 {
    return word_of(byte_w(row, k), byte_w(row, k + 1u), byte_w(row, k + 2u), byte_w(row, k + 3u));
}

fn words_w(row: u32, k: u32) -> vec4<u32> {
    return vec4<u32>(word_w(row, k), word_w(row + 1u, k), word_w(row + 2u, k), word_w(row + 3u, k));
}
