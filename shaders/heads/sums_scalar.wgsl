// Sums one by one.
var<workgroup> sh_y: array<f32, STRIP * LANES / 32u>;

fn sums_at(at: u32) -> vec4<f32> {
    return vec4<f32>(sh_y[at], 0.0, 0.0, 0.0);
}
