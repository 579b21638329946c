#import common/rounded.wgsl

// The codes of the next quantizer, as quantize/codes.wgsl makes them: stored from -HALF to HALF - 1, which is OFFSET less than the level.

@group(0) @binding(AT_OUT) var<storage, read> out_state: array<vec4<f32>>;
@group(0) @binding(AT_CODES) var<storage, read_write> codes: array<u32>;

const LOW = f32(OFFSET) - f32(HALF);
const HIGH = f32(OFFSET) + f32(HALF) - 1.0;

// What is read of floats that were stored: rounded to 16 bits where that is their type. In words with a barrier, because compilers
// drop a conversion there and back (measured).
fn as_stored(v: vec4<f32>) -> vec4<f32> {
    if HALF_Y {
        let zero = p.n >> 31u;
        return vec4<f32>(unpack2x16float(pack2x16float(v.xy) ^ zero), unpack2x16float(pack2x16float(v.zw) ^ zero));
    }
    return v;
}

fn codes_of(v: vec4<f32>) -> u32 {
    let s = out_state[0];
    let u = rounded4(v * s.y, p.n >> 31u) + s.z;
    let q = round(clamp(u, vec4<f32>(LOW), vec4<f32>(HIGH)));
    return pack4xI8(vec4<i32>(q - f32(OFFSET)));
}
