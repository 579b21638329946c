#import common/conv_params.wgsl

// The left operand of a convolution: windows of an image [B, H, W, C], channels per group a multiple of 4.

@group(0) @binding(1) var<storage, read> x: array<element_x4>;

fn load_x(row: RowX, k: u32) -> element_x4 {
    let i = window_index(row, k);
    if i >= 0 {
        return x[u32(i) / 4u];
    }
    return element_x4();
}
