#import common/result.wgsl

// The geometry of a convolution's gradient with respect to its weights as a GEMM.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    tiles_m: u32,
    tiles_n: u32,
    groups: u32,
    // k of one split, a multiple of the tile's; at least p.k when there is one
    split_k: u32,
    // of the image
    height: u32,
    width: u32,
    channels: u32,
    // of d_y
    out_height: u32,
    out_width: u32,
    kernel_width: u32,
    stride: u32,
    padding: u32,
    dilation: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
