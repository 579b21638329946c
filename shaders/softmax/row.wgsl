// A row's softmax in registers: LANES invocations a row, each with STEPS pieces of four columns, which lie LANES pieces apart. The order
// of the sum is that of the pieces, however rows lie in memory: a padded row gives the bits of the same row without padding.

// exp(score - largest)
var<private> weights: array<vec4<f32>, STEPS>;

// The largest score of a row, which all invocations of the workgroup ask for together; weights[i] becomes the score of a piece.
fn find_largest(local: u32, row: u32) -> f32 {
    // A row past the end is the last one again, so that loads need no branch.
    let there = min(row, p.rows - 1u);
    var most = vec4<f32>(MASKED);
    for (var i = 0u; i < STEPS; i++) {
        let piece = local % LANES + i * LANES;
        weights[i] = min(read_x(there, min(piece, p.pieces - 1u)), limit_of(there, piece));
        most = max(most, weights[i]);
    }
    return reduce_max(local, max_of(most));
}

// The sum of a row's weights, which are then in place of its scores.
fn find_total(local: u32, largest: f32) -> f32 {
    var sum = vec4<f32>();
    for (var i = 0u; i < STEPS; i++) {
        weights[i] = exp(weights[i] - largest);
        sum += weights[i];
    }
    return reduce_sum(local, sum_of(sum));
}
