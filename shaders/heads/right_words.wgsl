@group(0) @binding(2) var<storage, read> right: array<u32>;

// Eight neighbouring elements from anywhere, as far as they count.
fn load_right(at: u32, count: u32) -> Raw {
    let first = at / PER_WORD_RIGHT;
    let last = (at + max(count, 1u) - 1u) / PER_WORD_RIGHT;
    var words = vec4<u32>(right[first], right[min(first + 1u, last)], right[min(first + 2u, last)], 0u);
    var behind = 0u;
    if PER_WORD_RIGHT == 2u {
        words.w = right[min(first + 3u, last)];
        behind = right[min(first + 4u, last)];
    }
    return Raw(words, behind, at, count);
}
