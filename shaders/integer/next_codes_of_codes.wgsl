// The codes of a second quantizer, of other levels, of what the codes of the first stand for.

const NEXT_LOW = f32(NEXT_OFFSET) - f32(NEXT_HALF);
const NEXT_HIGH = f32(NEXT_OFFSET) + f32(NEXT_HALF) - 1.0;

fn next_codes(v: vec4<f32>, word: u32, channels: Channels) -> u32 {
    let next = channels.next_step;
    let values = as_stored(values_of(word, channels.step));
    return codes_under(values, vec4<f32>(next.y), vec4<f32>(next.z), NEXT_LOW, NEXT_HIGH, f32(NEXT_OFFSET), p.n >> 31u);
}
