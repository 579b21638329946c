#import common/gemm_windows.wgsl

// The left operand of a convolution: windows of an image [B, H, W, C], channels per group a multiple of 4.

@group(0) @binding(1) var<storage, read> x: array<element_x4>;

fn tap_x(k: u32) -> Place {
    return place_of(k);
}

fn load_x(row: RowX, tap: Place) -> element_x4 {
    if is_inside(row, tap) {
        return x[(row.offset + tap.offset) >> 2u];
    }
    return element_x4();
}
