// The right operand in f16: weights [groups * n, k], k contiguous and a multiple of 8, eight halves a load.

@group(0) @binding(2) var<storage, read> w: array<vec4<u32>>;

fn load_w(row: u32, group: u32, k: u32) -> vec4<u32> {
    if row < p.n && k < p.k {
        return w[(group * p.n + row) * (p.k / 8u) + k / 8u];
    }
    return vec4<u32>();
}
