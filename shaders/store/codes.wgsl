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

fn write_codes(i: u32, v: vec4<f32>, first: u32, end: u32) {
    for (var q = first; q < end; q++) {
        let s = state_of(q);
        codes[q * words() + i] = codes_under(v, vec4<f32>(s.y), vec4<f32>(s.z), LOW, HIGH, f32(OFFSET), no_bits());
    }
}

fn store(i: u32, v: vec4<f32>) {
    let stored = as_stored(v);
    keep(i, stored);
    write_codes(i, stored, 0u, PLAIN);
    store_sum(i, stored);
}
