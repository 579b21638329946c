// The gradient of weights in parts [splits, m, n], n a multiple of 4: alpha times each sum.

@group(0) @binding(3) var<storage, read> x_state: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;

fn stored_zero() -> f32 {
    return x_state[0].w;
}

// Stores the sums of columns `column`..`column + 4`; there is one group.
fn store_y(row: u32, column: u32, group: u32, split: u32, sums: vec4<f32>) {
    if row < p.m && column < p.n {
        y[(split * p.m + row) * (p.n / 4u) + column / 4u] = x_state[0].x * sums;
    }
}
