// The right operand: weights [groups * n, k], k contiguous and a multiple of 4.

@group(0) @binding(2) var<storage, read> w: array<element_w4>;

fn load_w(row: u32, group: u32, k: u32) -> element_w4 {
    if row < p.n && k < p.k {
        return w[(group * p.n + row) * (p.k / 4u) + k / 4u];
    }
    return element_w4();
}
