@group(0) @binding(1) var<storage, read> left: array<Eight>;

// Eight neighbouring elements; where one counts, all do.
fn load_left(at: u32, count: u32) -> Raw {
    return Raw(widened(left[at / 8u]), 0u, at, count);
}
