@group(0) @binding(1) var<storage, read> left: array<vec4<u32>>;

// Sixteen codes, where lines of them begin at multiples of sixteen.
fn load_left(at: u32, count: u32) -> vec4<u32> {
    return left[at / 16u];
}
