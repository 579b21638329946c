#import common/rounded.wgsl

// What sums of products of two operands' codes stand for: with the step sizes in the states of their quantizers. `zero` is that of the
// rounding barrier.

fn factor_of(left: vec4<f32>, right: vec4<f32>, scale: f32, zero: u32) -> f32 {
    return rounded(rounded(left.x * right.x, zero) * scale, zero);
}

// The nearest floats. Above 2^24 WGSL lets a conversion round either way; the sum of two exact parts rounds to nearest.
fn nearest_floats(total: vec4<i32>) -> vec4<f32> {
    return vec4<f32>(total & vec4<i32>(-4096)) + vec4<f32>(total & vec4<i32>(4095));
}

// The same of sums of up to 2^22 either way: an integer can be put behind the exponent of 1.5 · 2^23, which takes two plain instructions
// in place of a slow one.
fn floats_of_small(total: vec4<i32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(total + vec4<i32>(0x4b400000)) - 12582912.0;
}
