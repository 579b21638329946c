// The right operand of a gradient: columns of codes [k, n], n a multiple of 4, less the stored zero.

@group(0) @binding(2) var<storage, read> w: array<u32>;

fn load_w(column: u32, k: u32) -> vec4<f32> {
    if column < p.n && k < p.k {
        return vec4<f32>(unpack4xI8(w[k * (p.n / 4u) + column / 4u])) - stored_zero();
    }
    return vec4<f32>();
}

fn block_w(column: u32, group: u32, k: u32) -> mat4x4<f32> {
    return mat4x4<f32>(load_w(column, k), load_w(column, k + 1u), load_w(column, k + 2u), load_w(column, k + 3u));
}
