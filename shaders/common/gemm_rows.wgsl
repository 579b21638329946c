// The extents of a GEMM whose left operand is a matrix [m, k].

struct Params {
    m: u32,
    n: u32,
    k: u32,
    tiles_m: u32,
    tiles_n: u32,
    groups: u32,
}

@group(0) @binding(0) var<uniform> p: Params;

// A row of the left operand: where it begins.
struct RowX {
    offset: u32,
    valid: bool,
}
