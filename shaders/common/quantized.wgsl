#import common/rounded.wgsl

// What a quantizer makes of floats, for kernels that write codes. `zero` is that of the rounding barrier.

// What is read of floats that were stored in 16 bits. In words with a barrier, because compilers drop a conversion there and
// back (measured).
fn halves(v: vec4<f32>, zero: u32) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(pack2x16float(v.xy) ^ zero), unpack2x16float(pack2x16float(v.zw) ^ zero));
}

// 1.5 · 2^23: a sum with it, of numbers from -2^22 to 2^22, is rounded to an integer, half to even, which stands in the last bits.
const INTEGERS = 12582912.0;

// Four levels, not yet rounded, as a word of codes, which are less by `offset`: an even number, so that it changes no tie. A code and 128
// are a digit of base 256, so that sums put digits in their places. What INTEGERS and 128 have there is (0x4b400000 - 128) · 0x01010101.
fn word_of_levels(u: vec4<f32>, offset: f32) -> u32 {
    let codes = bitcast<vec4<u32>>(u + (INTEGERS - offset));
    let all = codes.x + (codes.y << 8u) + (codes.z << 16u) + (codes.w << 24u);
    return (all - 0x0abf7f80u) ^ 0x80808080u;
}

// What a word of codes stands for, not yet rounded to a type: alpha · (code - z0). A code and 128 are put behind the exponent of 2^23, which
// takes plain instructions in place of slow conversions; the difference is exact.
fn values_of(word: u32, state: vec4<f32>) -> vec4<f32> {
    let biased = word ^ 0x80808080u;
    let levels = vec4<u32>(biased & 0xffu, (biased >> 8u) & 0xffu, (biased >> 16u) & 0xffu, biased >> 24u) | vec4<u32>(0x4b000000u);
    return state.x * (bitcast<vec4<f32>>(levels) - (8388736.0 + state.w));
}

// code = round(clamp(x · (1 / alpha) + Z, low, high)) - offset, of which four are a word.
fn codes_under(x: vec4<f32>, inverse: vec4<f32>, z: vec4<f32>, low: f32, high: f32, offset: f32, zero: u32) -> u32 {
    return word_of_levels(clamp(rounded4(x * inverse, zero) + z, vec4<f32>(low), vec4<f32>(high)), offset);
}
