// The right operand in chunks of CHUNK elements: weights [groups * n, k], k a multiple of CHUNK.

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
    return RowW((group * p.n + row) * (p.k / CHUNK), row < p.n);
}

fn tap_w(k: u32, group: u32) -> TapW {
    return TapW(k / CHUNK, k < p.k);
}

fn load_w(row: RowW, tap: TapW) -> RawW {
    if row.valid && tap.valid {
        return w[row.offset + tap.offset];
    }
    return RawW();
}
