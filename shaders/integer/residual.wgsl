// What is added to the result of a product.

@group(0) @binding(AT_RESIDUAL) var<storage, read> residual: array<element_y4>;

fn residual_at(i: u32) -> element_y4 {
    return residual[i];
}
