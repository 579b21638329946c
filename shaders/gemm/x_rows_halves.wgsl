// The left operand of a GEMM in f16: rows of a matrix [m, k], k a multiple of 8, eight halves a load.

@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;

// A row: where it begins.
struct RowX {
    offset: u32,
    valid: bool,
}

struct Tap {
    offset: u32,
    valid: bool,
}

fn row_x(row: u32, group: u32) -> RowX {
    return RowX(row * (p.k / 8u), row < p.m);
}

fn tap_x(k: u32) -> Tap {
    return Tap(k / 8u, k < p.k);
}

fn load_x(row: RowX, tap: Tap) -> vec4<u32> {
    if row.valid && tap.valid {
        return x[row.offset + tap.offset];
    }
    return vec4<u32>();
}
