#import common/quantized.wgsl

// The codes of the next quantizer, stored from -HALF to HALF - 1, which is OFFSET less than the level. It has OUT_GROUPS step sizes:
// one, or each that of OUT_INNER vec4s of neighbouring channels. Of two quantizers, which have a step size each, the codes of the second are
// behind those of the first; a piece says what they are made of.

@group(0) @binding(AT_OUT) var<storage, read> out_state: array<vec4<f32>>;
@group(0) @binding(AT_CODES) var<storage, read_write> codes: array<u32>;

const LOW = f32(OFFSET) - f32(HALF);
const HIGH = f32(OFFSET) + f32(HALF) - 1.0;

// What is read of floats that were stored: rounded to 16 bits where that is their type.
fn as_stored(v: vec4<f32>) -> vec4<f32> {
    if HALF_Y {
        return halves(v, p.n >> 31u);
    }
    return v;
}

// The state of the i-th vec4 of channels.
fn step_of(i: u32) -> vec4<f32> {
    if OUT_GROUPS > 1u {
        return out_state[i / OUT_INNER];
    }
    return out_state[0];
}

fn codes_of(v: vec4<f32>, step: vec4<f32>) -> u32 {
    return codes_under(v, vec4<f32>(step.y), vec4<f32>(step.z), LOW, HIGH, f32(OFFSET), p.n >> 31u);
}

// The state of the second quantizer.
fn next_step() -> vec4<f32> {
    if ARE_TWO {
        return out_state[1];
    }
    return vec4<f32>();
}

fn store_codes(i: u32, v: vec4<f32>, channels: Channels) {
    let word = codes_of(v, channels.step);
    codes[i] = word;
    if ARE_TWO {
        codes[p.m * (p.n / 4u) + i] = next_codes(v, word, channels);
    }
}
