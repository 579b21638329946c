// The right operand in chunks of eight: weights [groups * n, k], k a multiple of 8.

@group(0) @binding(2) var<storage, read> w: array<RawW>;

struct RowW {
    offset: u32,
    valid: bool,
}

struct TapW {
    offset: u32,
    valid: bool,
}

fn row_w(row: u32, group: u32) -> RowW {
    return RowW((group * p.n + row) * (p.k / 8u), row < p.n);
}

fn tap_w(k: u32, group: u32) -> TapW {
    return TapW(k / 8u, k < p.k);
}

fn load_w(row: RowW, tap: TapW) -> RawW {
    if row.valid && tap.valid {
        return w[row.offset + tap.offset];
    }
    return RawW();
}
