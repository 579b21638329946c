// The left operand of a GEMM: rows of a matrix [m, k], k a multiple of 4.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    tiles_m: u32,
    tiles_n: u32,
    groups: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<element_x4>;

struct RowX {
    offset: u32,
    valid: bool,
}

fn row_x(row: u32, group: u32) -> RowX {
    return RowX(row * (p.k / 4u), row < p.m);
}

fn load_x(row: RowX, k: u32) -> element_x4 {
    if row.valid && k < p.k {
        return x[row.offset + k / 4u];
    }
    return element_x4();
}
