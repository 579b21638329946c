#import common/reduce.wgsl
#import common/rounded.wgsl

// What turns integer sums into floats: scale = alpha_x · alpha_w,  shift = bias - (scale · z0) · Σ w, every product rounded. LANES
// invocations a row of the codes `w`: each adds up every LANES-th word of it. Sums of up to 2^17 codes are exact in f32, in any order.

// Σ w over the codes from `first` to before `last`. Every invocation of the workgroup must call this together.
fn sum_of_codes(local: u32, first: u32, last: u32) -> f32 {
    var sum = 0;
    // The first and the last word may hold codes of other rows too.
    for (var word = first / 4u + local % LANES; word * 4u < last; word += LANES) {
        let i = word * 4u + vec4<u32>(0u, 1u, 2u, 3u);
        let mine = (i >= vec4<u32>(first)) & (i < vec4<u32>(last));
        sum += dot(select(vec4<i32>(), unpack4xI8(w[word]), mine), vec4<i32>(1));
    }
    return reduce_sum(local, f32(sum));
}

// (scale, shift) under the two states; `zero` is that of the rounding barrier.
fn scale_and_shift(x_state: vec4<f32>, w_state: vec4<f32>, bias: f32, codes: f32, zero: u32) -> vec2<f32> {
    let s = rounded(x_state.x * w_state.x, zero);
    return vec2<f32>(s, bias - rounded(rounded(s * x_state.w, zero) * codes, zero));
}
