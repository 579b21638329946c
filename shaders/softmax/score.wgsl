// The scores that a softmax is of. With HAS_MASK, mask[batch, column] = 0 replaces x by a large finite negative: a masked column gets
// 0 while any other is left, and all get the same when none is.

const MASKED = -1e30;

@group(0) @binding(1) var<storage, read> x: array<wide_x>;
@group(0) @binding(2) var<storage, read> mask: array<wide_mask>;

fn score(row: u32, piece: u32) -> wide {
    let v = wide(x[row * p.pieces + piece]);
    if HAS_MASK {
        let valid = mask[row / p.rows_of_mask * p.pieces + piece] != wide_mask();
        return select(wide(MASKED), v, valid);
    }
    return v;
}
