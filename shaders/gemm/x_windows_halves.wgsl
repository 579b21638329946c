// The left operand of a convolution in f16: windows of an image [B, H, W, C], channels per group a multiple of 8,
// eight halves a load.

@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;

fn tap_x(k: u32) -> Place {
    return place_of(k);
}

fn load_x(row: RowX, tap: Place) -> vec4<u32> {
    if is_inside(row, tap) {
        return x[(row.offset + tap.offset) >> 3u];
    }
    return vec4<u32>();
}
