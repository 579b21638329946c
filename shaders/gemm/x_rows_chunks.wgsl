// The left operand in chunks of CHUNK elements: rows of a matrix [m, k], k a multiple of CHUNK.

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
    return RowX(row * (p.k / CHUNK), row < p.m);
}

fn tap_x(k: u32, group: u32) -> TapX {
    return TapX(k / CHUNK, k < p.k);
}

fn load_x(row: RowX, tap: TapX) -> RawX {
    if row.valid && tap.valid {
        return x[row.offset + tap.offset];
    }
    return RawX();
}
