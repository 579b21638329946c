#import common/gemm_rows.wgsl

// The left operand of a GEMM: rows of a matrix [m, k], any k.

@group(0) @binding(1) var<storage, read> x: array<element_x>;

struct Tap {
    k: u32,
}

fn row_x(row: u32, group: u32) -> RowX {
    return RowX(row * p.k, row < p.m);
}

fn tap_x(k: u32) -> Tap {
    return Tap(k);
}

fn element_of_x(row: RowX, k: u32) -> element_x {
    if row.valid && k < p.k {
        return x[row.offset + k];
    }
    return element_x();
}

fn load_x(row: RowX, tap: Tap) -> element_x4 {
    let k = tap.k;
    return element_x4(element_of_x(row, k), element_of_x(row, k + 1u), element_of_x(row, k + 2u), element_of_x(row, k + 3u));
}
