// PRODUCTS independent products [m, n], operands and results of one behind those of another.

// The one that an invocation computes.
var<private> product: u32;

fn choose_product(i: u32) {
    product = i;
}

// Chooses the product of a row of tiles, counted over all of them; gives the row in the product, which for rows past the last is one
// past its last.
fn tile_row_of(row: u32) -> u32 {
    product = min(row / p.tiles_m, PRODUCTS - 1u);
    return row - product * p.tiles_m;
}
