@group(0) @binding(2) var<storage, read> right: array<vec4<u32>>;

// Sixteen codes, where lines of them begin at multiples of sixteen.
fn load_right(at: u32, count: u32) -> vec4<u32> {
    return right[at / 16u];
}
