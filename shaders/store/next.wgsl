// The codes of a second quantizer.

@group(0) @binding(AT_NEXT_STATE) var<storage, read> next_state: array<vec4<f32>>;
@group(0) @binding(AT_NEXT_CODES) var<storage, read_write> next_codes: array<u32>;

fn store_next(i: u32, stored: vec4<f32>) {
    let s = next_state[0];
    let low = f32(NEXT_OFFSET) - f32(NEXT_HALF);
    let high = f32(NEXT_OFFSET) + f32(NEXT_HALF) - 1.0;
    next_codes[i] = codes_under(stored, vec4<f32>(s.y), vec4<f32>(s.z), low, high, f32(NEXT_OFFSET), no_bits());
}
