// What is added to the result of a product: floats.

@group(0) @binding(AT_RESIDUAL) var<storage, read> residual: array<element_y4>;

alias Residual = element_y4;

fn residual_at(i: u32) -> Residual {
    return residual[i];
}

// Floats have no quantizer.
fn residual_step() -> vec4<f32> {
    return vec4<f32>();
}

fn added_by(r: Residual, step: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(r);
}
