@group(0) @binding(1) var<storage, read> left: array<u32>;

// Eight neighbouring elements from anywhere, as far as they count.
fn load_left(at: u32, count: u32) -> Raw {
    let first = at / PER_WORD_LEFT;
    let last = (at + max(count, 1u) - 1u) / PER_WORD_LEFT;
    var words = vec4<u32>(left[first], left[min(first + 1u, last)], left[min(first + 2u, last)], 0u);
    var behind = 0u;
    if PER_WORD_LEFT == 2u {
        words.w = left[min(first + 3u, last)];
        behind = left[min(first + 4u, last)];
    }
    return Raw(words, behind, at, count);
}
