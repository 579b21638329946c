// The states of all quantizers in one tensor.

@group(0) @binding(AT_STATE) var<storage, read> states: array<vec4<f32>>;

fn state_of(quantizer: u32, i: u32) -> vec4<f32> {
    return states[quantizer];
}
