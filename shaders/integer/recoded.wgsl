#import common/quantized.wgsl

// Codes of x are those of another quantizer: what is multiplied are codes of what they stand for, as quantize/recode.wgsl makes them.

@group(0) @binding(AT_STATE) var<storage, read> state: array<vec4<f32>>;
@group(0) @binding(AT_FROM) var<storage, read> from_state: array<vec4<f32>>;

const X_LOW = f32(X_OFFSET) - f32(X_HALF);
const X_HIGH = f32(X_OFFSET) + f32(X_HALF) - 1.0;

const RECODES = true;

// The states of both quantizers.
struct Loading {
    codes: vec4<f32>,
    from_codes: vec4<f32>,
}

fn loading() -> Loading {
    return Loading(state[0], from_state[0]);
}

fn loaded(word: u32, given: Loading) -> u32 {
    var v = values_of(word, given.from_codes);
    if HALF_Y {
        v = halves(v, p.n >> 31u);
    }
    return codes_under(v, vec4<f32>(given.codes.y), vec4<f32>(given.codes.z), X_LOW, X_HIGH, f32(X_OFFSET), p.n >> 31u);
}

fn loaded4(words: vec4<u32>, given: Loading) -> vec4<u32> {
    return vec4<u32>(loaded(words.x, given), loaded(words.y, given), loaded(words.z, given), loaded(words.w, given));
}
