// The right operand: weights [groups * n, k], k contiguous, of any size.

@group(0) @binding(2) var<storage, read> w: array<element_w>;

fn element_of_w(row: u32, group: u32, k: u32) -> element_w {
    if row < p.n && k < p.k {
        return w[(group * p.n + row) * p.k + k];
    }
    return element_w();
}

fn load_w(row: u32, group: u32, k: u32) -> element_w4 {
    return element_w4(
        element_of_w(row, group, k),
        element_of_w(row, group, k + 1u),
        element_of_w(row, group, k + 2u),
        element_of_w(row, group, k + 3u),
    );
}
