#import common/gemm_rows.wgsl

// The left operand of a GEMM: rows of a matrix [m, k], k a multiple of 4.

@group(0) @binding(1) var<storage, read> x: array<element_x4>;

// Four neighbouring k, the same for all rows.
struct Tap {
    offset: u32,
    valid: bool,
}

fn row_x(row: u32, group: u32) -> RowX {
    return RowX(row * (p.k / 4u), row < p.m);
}

fn tap_x(k: u32) -> Tap {
    return Tap(k / 4u, k < p.k);
}

fn load_x(row: RowX, tap: Tap) -> element_x4 {
    if row.valid && tap.valid {
        return x[row.offset + tap.offset];
    }
    return element_x4();
}
