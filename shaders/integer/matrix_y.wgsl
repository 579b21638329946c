// The end of the kernels for cooperative matrices, whose sums are i32, or integers below 2^24 in f32.

fn residual_of(row: u32, column: u32, group: u32, split: u32) -> vec4<f32> {
    if HAS_RESIDUAL && row < p.m && column < p.n {
        return residual_at(row * (p.n / 4u) + column / 4u);
    }
    return vec4<f32>();
}

fn store_y(row: u32, column: u32, group: u32, split: u32, sums: Sums, added: vec4<f32>) {
    if row < p.m && column < p.n {
        finish(row, column, vec4<i32>(sums), added);
    }
}
