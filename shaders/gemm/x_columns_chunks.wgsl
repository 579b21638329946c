// The left operand in chunks of eight: columns of a matrix stored as [k, m], m a multiple of 8.

@group(0) @binding(1) var<storage, read> x: array<RawX>;

struct RowX {
    offset: u32,
    valid: bool,
}

struct TapX {
    offset: u32,
    valid: bool,
}

fn row_x(row: u32, group: u32) -> RowX {
    return RowX(row / 8u, row < p.m);
}

fn tap_x(k: u32, group: u32) -> TapX {
    return TapX(k * (p.m / 8u), k < p.k);
}

fn load_x(row: RowX, tap: TapX) -> RawX {
    if row.valid && tap.valid {
        return x[row.offset + tap.offset];
    }
    return RawX();
}
