#import common/quantized.wgsl

// The result as the codes of a quantizer with one step size, made from what is stored of the floats, or would be.

@group(0) @binding(AT_STATE) var<storage, read> state: array<vec4<f32>>;
@group(0) @binding(AT_CODES) var<storage, read_write> codes: array<u32>;

fn store(i: u32, v: vec4<f32>) {
    var stored = v;
    if HALF_Y {
        stored = halves(v, no_bits());
    }
    keep(i, stored);
    let s = state[0];
    let low = f32(OFFSET) - f32(HALF);
    let high = f32(OFFSET) + f32(HALF) - 1.0;
    codes[i] = codes_under(stored, vec4<f32>(s.y), vec4<f32>(s.z), low, high, f32(OFFSET), no_bits());
    store_next(i, stored);
}
