// The lanes of a number: itself.

fn sum_of(v: f32) -> f32 {
    return v;
}

fn max_of(v: f32) -> f32 {
    return v;
}
