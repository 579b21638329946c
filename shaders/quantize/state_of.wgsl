#import common/reciprocal.wgsl

// What a quantizer's kernels read of a step size: (alpha within its limits, 1 / alpha, Z, Z - offset).
fn state_of(alpha: f32, zero_point: f32, low: f32, high: f32, offset: f32) -> vec4<f32> {
    let step = clamp(alpha, p.alpha_min, p.alpha_max);
    let zero = clamp(round(zero_point), low, high);
    return vec4<f32>(step, reciprocal(step), zero, zero - offset);
}
