// The right operand in chunks of eight: columns of a matrix stored as [k, n], n a multiple of 8.

@group(0) @binding(2) var<storage, read> w: array<RawW>;

alias RowW = u32;

struct TapW {
    offset: u32,
    valid: bool,
}

// A row past the last is among the last eight: what comes of it is not stored.
fn row_w(row: u32, group: u32) -> RowW {
    return min(row, p.n - 8u) / 8u;
}

fn tap_w(first: u32, within: u32, group: u32) -> TapW {
    let k = first + within;
    return TapW(k * (p.n / 8u), ALIGNED || k < p.k);
}

fn load_w(row: RowW, tap: TapW) -> RawW {
    if tap.valid {
        return w[row + tap.offset];
    }
    return RawW();
}
