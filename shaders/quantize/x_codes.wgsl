#import common/quantized.wgsl

// x is what codes stand for, as it would be stored.

@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(AT_CODES_STATE) var<storage, read> codes_state: array<vec4<f32>>;

fn x_at(at: u32) -> wide {
    let v = values_of(x[at], codes_state[0]);
    if HALF {
        return halves(v, p.parts >> 31u);
    }
    return v;
}
