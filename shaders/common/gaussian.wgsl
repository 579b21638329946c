// SMCA's prior for one key: -((centre - cell) / width)^2 / 8 with the cell's whole coordinates (x, y), as exponents of e.

const SMOOTH = 0.125;

// The cell of a key in a grid of some columns. With a rounded reciprocal: exact for keys below 2^21, as the host asserts.
fn cell_of(key: u32, columns: u32, inverse_columns: f32) -> vec2<f32> {
    let row = u32((f32(key) + 0.5) * inverse_columns);
    return vec2<f32>(f32(key - row * columns), f32(row));
}

fn gaussian(centre: vec2<f32>, inverse_width: vec2<f32>, cell: vec2<f32>) -> f32 {
    let distance = (centre - cell) * inverse_width;
    return -SMOOTH * dot(distance, distance);
}
