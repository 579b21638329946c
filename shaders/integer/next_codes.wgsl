// The codes of a second quantizer of the result, which has the same levels.

fn next_codes(v: vec4<f32>, word: u32, channels: Channels) -> u32 {
    return codes_of(v, channels.next_step);
}
