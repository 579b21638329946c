#import common/conv_params.wgsl

// The left operand of a convolution: windows of an image [B, H, W, C], any number of channels.

@group(0) @binding(1) var<storage, read> x: array<element_x>;

fn element_of_x(row: RowX, k: u32) -> element_x {
    let i = window_index(row, k);
    if i >= 0 {
        return x[i];
    }
    return element_x();
}

fn load_x(row: RowX, k: u32) -> element_x4 {
    return element_x4(element_of_x(row, k), element_of_x(row, k + 1u), element_of_x(row, k + 2u), element_of_x(row, k + 3u));
}
