#import common/transposed.wgsl

// The right operand: weights [groups * n, k], k contiguous, of any size.

@group(0) @binding(2) var<storage, read> w: array<element_w>;

fn element_of_w(row: u32, group: u32, k: u32) -> f32 {
    if row < p.n && k < p.k {
        return f32(w[(group * p.n + row) * p.k + k]);
    }
    return 0.0;
}

fn load_w(row: u32, group: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(
        element_of_w(row, group, k),
        element_of_w(row, group, k + 1u),
        element_of_w(row, group, k + 2u),
        element_of_w(row, group, k + 3u),
    );
}

fn block_w(row: u32, group: u32, k: u32) -> mat4x4<f32> {
    return transposed(load_w(row, group, k), load_w(row + 1u, group, k), load_w(row + 2u, group, k), load_w(row + 3u, group, k));
}
