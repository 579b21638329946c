#import common/codes.wgsl

// The right operand of a gradient: columns of codes [k, n], any n, less the stored zero.

@group(0) @binding(2) var<storage, read> w: array<u32>;

fn element_of_w(column: u32, k: u32) -> f32 {
    if column < p.n && k < p.k {
        let i = k * p.n + column;
        return f32(code_of(w[i / 4u], i)) - stored_zero();
    }
    return 0.0;
}

fn load_w(column: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(
        element_of_w(column, k),
        element_of_w(column + 1u, k),
        element_of_w(column + 2u, k),
        element_of_w(column + 3u, k),
    );
}

fn block_w(column: u32, group: u32, k: u32) -> mat4x4<f32> {
    return mat4x4<f32>(load_w(column, k), load_w(column, k + 1u), load_w(column, k + 2u), load_w(column, k + 3u));
}
