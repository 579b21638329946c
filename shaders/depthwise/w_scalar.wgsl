// The weights [C, taps] of a depthwise convolution, for one channel.

@group(0) @binding(2) var<storage, read> w: array<element_w>;

fn load_w(piece: u32, tap: u32) -> f32 {
    return f32(w[piece * TAPS + tap]);
}
