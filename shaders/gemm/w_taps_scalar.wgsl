// The right operand of a convolution's gradient with respect to its image: weights [channels of d_y, taps, n], read with k
// running over (tap, channel of d_y) and n, the channel of the image, contiguous, any number of them.

@group(0) @binding(2) var<storage, read> w: array<element_w>;

fn element_of_w(column: u32, k: u32) -> f32 {
    if column < p.n && k < p.k {
        let tap = k / p.channels;
        return f32(w[((k - tap * p.channels) * p.taps + tap) * p.n + column]);
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
