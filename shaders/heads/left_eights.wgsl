@group(0) @binding(1) var<storage, read> left: array<EightLeft>;

// Eight neighbouring elements; where one counts, all do.
fn load_left(at: u32, count: u32) -> Raw {
    return Raw(widened_left(left[at / 8u]), 0u, at, count);
}
