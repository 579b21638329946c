// The right operand of a convolution's gradient with respect to its image: weights [channels of d_y, taps, n], read with k
// running over (tap of the phase, channel of d_y) and n, the channel of the image, contiguous, any number of them.

@group(0) @binding(2) var<storage, read> w: array<element_w>;

fn load_w(column: u32, group: u32, k: u32) -> vec4<f32> {
    let tap = tap_of(k, group);
    let first = (tap.channel * (p.kernel_height * p.kernel_width) + tap.tap) * p.n + column;
    var v = vec4<f32>();
    for (var j = 0u; j < 4u; j++) {
        if column + j < p.n && tap.valid {
            v[j] = f32(w[first + j]);
        }
    }
    return v;
}

fn block_w(column: u32, group: u32, k: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        load_w(column, group, k),
        load_w(column, group, k + 1u),
        load_w(column, group, k + 2u),
        load_w(column, group, k + 3u),
    );
}
