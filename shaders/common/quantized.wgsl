#import common/rounded.wgsl

// What a quantizer makes of floats, for kernels that write codes. `zero` is that of the rounding barrier.

// What is read of floats that were stored in 16 bits. In words with a barrier, because compilers drop a conversion there and
// back (measured).
fn halves(v: vec4<f32>, zero: u32) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(pack2x16float(v.xy) ^ zero), unpack2x16float(pack2x16float(v.zw) ^ zero));
}

// 1.5 · 2^23: a sum with it, of numbers from -2^22 to 2^22, is rounded to an integer, half to even, which stands in the last bits.
const INTEGERS = 12582912.0;

// code = round(clamp(x · (1 / alpha) + Z, low, high)) - offset, of which four are a word. The offset is even, so that it changes no tie.
fn codes_under(x: vec4<f32>, inverse: vec4<f32>, z: vec4<f32>, low: f32, high: f32, offset: f32, zero: u32) -> u32 {
    let u = clamp(rounded4(x * inverse, zero) + z, vec4<f32>(low), vec4<f32>(high));
    let bytes = bitcast<vec4<u32>>(u + (INTEGERS - offset)) & vec4<u32>(0xffu);
    return bytes.x | bytes.y << 8u | bytes.z << 16u | bytes.w << 24u;
}
