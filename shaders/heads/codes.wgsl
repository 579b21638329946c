#import common/sums_of_codes.wgsl

// A product of heads on codes i8: a head has one step size alpha and one stored zero for each operand, and the factor of the sums
// is alpha_left * alpha_right * p.scale. What is multiplied are differences to the zeros, of up to 255 to either side, so that a
// sum of 2^24 / 255^2 products is an exact integer in f32. One rounding follows, of the sum to f32, and then one product.

alias Total = vec4<i32>;

// [heads] each
@group(0) @binding(3) var<storage, read> left_state: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> right_state: array<vec4<f32>>;

// The stored zeros of the head, left and right, and the factor of its sums.
var<private> zeros: vec2<f32>;
var<private> factor: f32;

// 0, which the compiler does not know: see `rounded`.
fn nothing() -> u32 {
    return p.k >> 31u;
}

fn prepare(head: u32) {
    let left_of_head = left_state[head];
    let right_of_head = right_state[head];
    zeros = vec2<f32>(left_of_head.w, right_of_head.w);
    factor = factor_of(left_of_head, right_of_head, p.scale, nothing());
}

// Nothing is dropped from codes.
fn kept(at: u32) -> vec4<bool> {
    return vec4<bool>(true);
}

// What is multiplied.
fn operand_of(difference: vec4<f32>) -> vec4<f32> {
    return difference;
}

fn floats_of(total: Total) -> vec4<f32> {
    return nearest_floats(total);
}

// The results [row, column .. column + 4], the first of them at `at`.
fn finished(sum: vec4<f32>, image: u32, row: u32, head: u32, column: u32, at: u32) -> vec4<f32> {
    return with_prior(rounded4(sum * factor, nothing()), image, row, head, column);
}
