// Nothing is added to the result of a product.

alias Residual = u32;

fn residual_at(i: u32) -> Residual {
    return 0u;
}

fn residual_step() -> vec4<f32> {
    return vec4<f32>();
}

fn added_by(r: Residual, step: vec4<f32>) -> vec4<f32> {
    return vec4<f32>();
}
