// The right operand, stored as [k, n], any n.

@group(0) @binding(2) var<storage, read> w: array<element_w>;

fn element_of_w(column: u32, k: u32) -> f32 {
    if column < p.n && k < p.k {
        return f32(w[k * p.n + column]);
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
