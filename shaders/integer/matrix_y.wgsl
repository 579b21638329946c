// The end of the kernels for cooperative matrices of halves: their f32 sums are integers below 2^24.

fn residual_of(row: u32, column: u32, group: u32, split: u32) -> vec4<f32> {
    choose_product(group);
    if HAS_RESIDUAL && row < p.m && column < p.n {
        return added_by(residual_at(result_at(row, column)), residual_step());
    }
    return vec4<f32>();
}

fn store_y(row: u32, column: u32, group: u32, split: u32, sums: vec4<f32>, added: vec4<f32>) {
    choose_product(group);
    if row < p.m && column < p.n {
        finish(row, column, vec4<i32>(sums), added);
    }
}
