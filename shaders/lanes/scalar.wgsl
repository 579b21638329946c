// The lanes of a number: itself.

fn sum_of(v: f32) -> f32 {
    return v;
}

fn max_of(v: f32) -> f32 {
    return v;
}

// The lanes that a vec4 computed from `vec4<f32>(..)` of them stands for.
fn lanes_of(v: vec4<f32>) -> f32 {
    return v.x;
}

// What a comparison of two of them gives.
alias lanes_bool = bool;
