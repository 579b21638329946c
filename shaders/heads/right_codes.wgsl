@group(0) @binding(2) var<storage, read> right: array<u32>;

// Sixteen codes from anywhere, as far as they count.
fn load_right(at: u32, count: u32) -> vec4<u32> {
    let first = at / 4u;
    let last = (at + max(count, 1u) - 1u) / 4u;
    let words = vec4<u32>(
        right[first],
        right[min(first + 1u, last)],
        right[min(first + 2u, last)],
        right[min(first + 3u, last)],
    );
    return shifted(words, right[min(first + 4u, last)], at);
}
