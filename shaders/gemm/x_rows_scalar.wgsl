// The left operand of a GEMM: rows of a matrix [m, k], any k.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    tiles_m: u32,
    tiles_n: u32,
    groups: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<element_x>;

struct RowX {
    offset: u32,
    valid: bool,
}

fn row_x(row: u32, group: u32) -> RowX {
    return RowX(row * p.k, row < p.m);
}

fn element_of_x(row: RowX, k: u32) -> element_x {
    if row.valid && k < p.k {
        return x[row.offset + k];
    }
    return element_x();
}

fn load_x(row: RowX, k: u32) -> element_x4 {
    return element_x4(element_of_x(row, k), element_of_x(row, k + 1u), element_of_x(row, k + 2u), element_of_x(row, k + 3u));
}
