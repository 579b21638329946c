@group(0) @binding(1) var<storage, read> left: array<u32>;

// Sixteen codes from anywhere, as far as they count.
fn load_left(at: u32, count: u32) -> vec4<u32> {
    let first = at / 4u;
    let last = (at + max(count, 1u) - 1u) / 4u;
    let words = vec4<u32>(
        left[first],
        left[min(first + 1u, last)],
        left[min(first + 2u, last)],
        left[min(first + 3u, last)],
    );
    return shifted(words, left[min(first + 4u, last)], at);
}
