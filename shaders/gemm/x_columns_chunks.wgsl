// The left operand in chunks of eight: columns of a matrix stored as [k, m], m a multiple of 8.

@group(0) @binding(1) var<storage, read> x: array<RawX>;

alias RowX = u32;

struct TapX {
    offset: u32,
    valid: bool,
}

// A row past the last is among the last eight: what comes of it is not stored.
fn row_x(row: u32, group: u32) -> RowX {
    return min(row, p.m - 8u) / 8u;
}

fn tap_x(first: u32, within: u32, group: u32) -> TapX {
    let k = first + within;
    return TapX(k * (p.m / 8u), ALIGNED || k < p.k);
}

fn load_x(row: RowX, tap: TapX) -> RawX {
    if tap.valid {
        return x[row + tap.offset];
    }
    return RawX();
}
