// The states of two quantizers in two tensors.

@group(0) @binding(AT_STATE) var<storage, read> first_state: array<vec4<f32>>;
@group(0) @binding(AT_STATE + 1u) var<storage, read> second_state: array<vec4<f32>>;

fn state_of(quantizer: u32, i: u32) -> vec4<f32> {
    if quantizer == 0u {
        return first_state[0];
    }
    return second_state[0];
}
