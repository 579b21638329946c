// The parameters of a product of heads: extents, where operands and result lie, and what is done beside it.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    // Columns of the result: n, and those of its padding.
    columns_y: u32,
    tiles_m: u32,
    tiles_n: u32,
    batch: u32,
    heads: u32,
    left_batch: u32,
    left_head: u32,
    left_row: u32,
    right_batch: u32,
    right_head: u32,
    right_row: u32,
    y_batch: u32,
    y_head: u32,
    y_row: u32,
    scale: f32,
    salt: u32,
    threshold: u32,
    dropout_scale: f32,
    columns: u32,
    inverse_columns: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
