@group(0) @binding(2) var<storage, read> right: array<EightRight>;

// Eight neighbouring elements; where one counts, all do.
fn load_right(at: u32, count: u32) -> Raw {
    return Raw(widened_right(right[at / 8u]), 0u, at, count);
}
