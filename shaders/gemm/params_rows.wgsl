#import common/result.wgsl

// The extents of a GEMM whose left operand is a matrix [m, k].

struct Params {
    m: u32,
    n: u32,
    k: u32,
    tiles_m: u32,
    tiles_n: u32,
    groups: u32,
    // k of one split, a multiple of the tile's; at least p.k when there is one
    split_k: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
