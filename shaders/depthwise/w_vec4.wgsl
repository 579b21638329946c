// The weights [C, taps] of a depthwise convolution, for four neighbouring channels.

@group(0) @binding(2) var<storage, read> w: array<element_w>;

fn load_w(piece: u32, tap: u32) -> vec4<f32> {
    let i = 4u * piece * TAPS + tap;
    return vec4<f32>(f32(w[i]), f32(w[i + TAPS]), f32(w[i + 2u * TAPS]), f32(w[i + 3u * TAPS]));
}
