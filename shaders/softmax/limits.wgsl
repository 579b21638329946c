// What the scores of a softmax count as at most.
//
// With HAS_MASK, a mask of 0 replaces the score by a large finite negative: a masked column gets 0 while any other is left, and all get
// the same when none is. Columns past p.keys, which a piece or the padding has, get 0 in any case.

const MASKED = -1e30;
// So much less that its exponential is 0 even beside MASKED.
const ABSENT = -2e30;

// What the scores of a piece count as at most: MASKED, ABSENT, or what they are.
fn limit_of(row: u32, piece: u32) -> vec4<f32> {
    var limit = vec4<f32>(-MASKED);
    if HAS_MASK {
        let mask = read_mask(row / p.rows_of_mask, min(piece, p.pieces - 1u));
        limit = select(vec4<f32>(MASKED), limit, mask != vec4<u32>());
    }
    let columns = vec4<u32>(piece * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<f32>(ABSENT), limit, columns < vec4<u32>(p.keys));
}
