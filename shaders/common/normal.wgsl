// The arithmetic of a layer norm, the same wherever rows are normalized: y = (x - mean) / sqrt(variance + eps) · weight + bias.
// p.freedom divides the squares. Products are contracted into sums here and not where a compiler likes: of two squares that are added it may
// round either one, in one kernel this and in another that.

// With the square of one more difference to the mean.
fn with_square(sum: wide, x: wide, mean: f32) -> wide {
    let d = x - mean;
    return fma(d, d, sum);
}

fn inverse_deviation(squares: f32) -> f32 {
    let variance = squares / f32(p.freedom);
    return 1.0 / sqrt(variance + p.eps);
}

fn normal(x: wide, mean: f32, r: f32, weight: wide, bias: wide) -> wide {
    return fma((x - mean) * r, weight, bias);
}
