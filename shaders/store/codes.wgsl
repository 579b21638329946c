#import common/quantized.wgsl

// The result as the codes of QUANTIZERS quantizers, whose levels are the same and which have one step size each: one behind the other,
// made from what is stored of the floats, or would be. Those behind the first PLAIN of them are of a sum (store/sum.wgsl).

@group(0) @binding(AT_CODES) var<storage, read_write> codes: array<u32>;

const LOW = f32(OFFSET) - f32(HALF);
const HIGH = f32(OFFSET) + f32(HALF) - 1.0;

fn as_stored(v: vec4<f32>) -> vec4<f32> {
    if HALF_Y {
        return halves(v, no_bits());
    }
    return v;
}

fn store(i: u32, v: vec4<f32>) {
    store_with(i, v, addend_at(i));
}

// With what is added. Everything is read before anything is stored: a compiler cannot move loads before stores that may be to the same
// place.
fn store_with(i: u32, v: vec4<f32>, added: element_addend4) {
    let stored = as_stored(v);
    let sum = with_addend(stored, added);
    var of_quantizer: array<u32, QUANTIZERS>;
    for (var q = 0u; q < QUANTIZERS; q++) {
        let s = state_of(q, i);
        let x = select(stored, sum, q >= PLAIN);
        of_quantizer[q] = codes_under(x, vec4<f32>(s.y), vec4<f32>(s.z), LOW, HIGH, f32(OFFSET), no_bits());
    }
    keep(i, stored);
    for (var q = 0u; q < QUANTIZERS; q++) {
        codes[q * words() + i] = of_quantizer[q];
    }
}
