#import common/quantized.wgsl

// What is added to the result of a product: the values of codes under one step size, four codes a word. A value has the bits that it would
// have in memory.

@group(0) @binding(AT_RESIDUAL) var<storage, read> residual: array<u32>;
@group(0) @binding(AT_RESIDUAL_STATE) var<storage, read> residual_state: array<vec4<f32>>;

alias Residual = u32;

fn residual_at(i: u32) -> Residual {
    return residual[i];
}

// The state of the codes' quantizer.
fn residual_step() -> vec4<f32> {
    return residual_state[0];
}

// alpha · (code - z0), rounded before it is added.
fn added_by(r: Residual, step: vec4<f32>) -> vec4<f32> {
    let v = values_of(r, step);
    if HALF_Y {
        return halves(v, p.n >> 31u);
    }
    return rounded4(v, p.n >> 31u);
}
