// Sums in fours.
var<workgroup> sh_y: array<vec4<f32>, STRIP * LANES / 32u>;

fn sums_at(at: u32) -> vec4<f32> {
    return sh_y[at];
}
