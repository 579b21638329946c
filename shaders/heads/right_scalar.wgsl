@group(0) @binding(2) var<storage, read> right: array<element_right>;

// Up to four neighbouring elements, and zeros behind the `valid` ones; there is at least one.
fn read_right(at: u32, valid: u32) -> vec4<f32> {
    var v = vec4<f32>(f32(right[at]), 0.0, 0.0, 0.0);
    if valid > 1u {
        v.y = f32(right[at + 1u]);
    }
    if valid > 2u {
        v.z = f32(right[at + 2u]);
    }
    if valid > 3u {
        v.w = f32(right[at + 3u]);
    }
    return v;
}
