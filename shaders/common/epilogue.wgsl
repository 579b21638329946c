// The activation at the end of a matrix product or convolution, for four neighbouring channels:
// y = activation(scale[n] * sum + shift[n] + residual). The flags HAS_SCALE, HAS_SHIFT and HAS_RESIDUAL say which
// parts there are; a binding of an absent part is never read.

fn activate(v: vec4<f32>) -> vec4<f32> {
    if ACTIVATION == 1u {
        return max(v, vec4<f32>(0.0));
    }
    if ACTIVATION == 2u {
        return clamp(v, vec4<f32>(0.0), vec4<f32>(6.0));
    }
    return v;
}
