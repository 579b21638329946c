// The left operand in chunks of CHUNK elements: rows of matrices [groups * m, k], k a multiple of CHUNK.

@group(0) @binding(1) var<storage, read> x: array<RawX>;

alias RowX = u32;

struct TapX {
    offset: u32,
    valid: bool,
}

// A row past the last is the last: what comes of it is not stored.
fn row_x(row: u32, group: u32) -> RowX {
    return (group * p.m + min(row, p.m - 1u)) * (p.k / CHUNK);
}

fn tap_x(first: u32, within: u32, group: u32) -> TapX {
    let k = first + within;
    return TapX(k / CHUNK, ALIGNED || k < p.k);
}

fn load_x(row: RowX, tap: TapX) -> RawX {
    if tap.valid {
        return x[row + tap.offset];
    }
    return RawX();
}
