// The lanes of a vec4, joined in a fixed order.

fn sum_of(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

fn max_of(v: vec4<f32>) -> f32 {
    return max(max(v.x, v.y), max(v.z, v.w));
}

// The lanes that a vec4 computed from `vec4<f32>(..)` of them stands for.
fn lanes_of(v: vec4<f32>) -> vec4<f32> {
    return v;
}

// What a comparison of two of them gives.
alias lanes_bool = vec4<bool>;
