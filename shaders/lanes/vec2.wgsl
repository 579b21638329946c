// The lanes of a vec2, joined in a fixed order.

fn sum_of(v: vec2<f32>) -> f32 {
    return v.x + v.y;
}

fn max_of(v: vec2<f32>) -> f32 {
    return max(v.x, v.y);
}

// The lanes that a vec4 computed from `vec4<f32>(..)` of them stands for.
fn lanes_of(v: vec4<f32>) -> vec2<f32> {
    return v.xy;
}

// What a comparison of two of them gives.
alias lanes_bool = vec2<bool>;
