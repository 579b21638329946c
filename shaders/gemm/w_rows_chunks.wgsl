// The right operand in chunks of CHUNK elements: weights [groups * n, k], k a multiple of CHUNK.

@group(0) @binding(2) var<storage, read> w: array<RawW>;

alias RowW = u32;

struct TapW {
    offset: u32,
    valid: bool,
}

// A row past the last is the last: what comes of it is not stored.
fn row_w(row: u32, group: u32) -> RowW {
    return (group * p.n + min(row, p.n - 1u)) * (p.k / CHUNK);
}

fn tap_w(first: u32, within: u32, group: u32) -> TapW {
    let k = first + within;
    return TapW(k / CHUNK, ALIGNED || k < p.k);
}

fn load_w(row: RowW, tap: TapW) -> RawW {
    if tap.valid {
        return w[row + tap.offset];
    }
    return RawW();
}
