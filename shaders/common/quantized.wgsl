#import common/rounded.wgsl

// What a quantizer makes of floats, for kernels that write codes. `zero` is that of the rounding barrier.

// What is read of floats that were stored in 16 bits. In words with a barrier, because compilers drop a conversion there and
// back (measured).
fn halves(v: vec4<f32>, zero: u32) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(pack2x16float(v.xy) ^ zero), unpack2x16float(pack2x16float(v.zw) ^ zero));
}

// code = round(clamp(x · (1 / alpha) + Z, low, high)) - offset, of which four are a word.
fn codes_under(x: vec4<f32>, inverse: vec4<f32>, z: vec4<f32>, low: f32, high: f32, offset: f32, zero: u32) -> u32 {
    let u = rounded4(x * inverse, zero) + z;
    let q = round(clamp(u, vec4<f32>(low), vec4<f32>(high)));
    return pack4xI8(vec4<i32>(q - offset));
}
