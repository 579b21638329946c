#import common/transposed.wgsl

// The right operand: weights [groups * n, k], k contiguous and a multiple of 4.

@group(0) @binding(2) var<storage, read> w: array<element_w4>;

fn load_w(row: u32, group: u32, k: u32) -> vec4<f32> {
    if row < p.n && k < p.k {
        return vec4<f32>(w[(group * p.n + row) * (p.k / 4u) + k / 4u]);
    }
    return vec4<f32>();
}

fn block_w(row: u32, group: u32, k: u32) -> mat4x4<f32> {
    return transposed(load_w(row, group, k), load_w(row + 1u, group, k), load_w(row + 2u, group, k), load_w(row + 3u, group, k));
}
