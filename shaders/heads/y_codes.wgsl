#import common/quantized.wgsl

// The results as codes of a quantizer with one step size, stored from -OUT_HALF to OUT_HALF - 1, which is OUT_OFFSET less than the
// level; made from floats rounded to the type that they would have in memory.

@group(0) @binding(AT_Y) var<storage, read> out_state: array<vec4<f32>>;
@group(0) @binding(AT_Y + 1) var<storage, read_write> codes: array<u32>;

// Stores four neighbouring elements; where there is one, there are four.
fn write_y(at: u32, v: vec4<f32>, valid: u32) {
    var stored = v;
    if HALF_Y {
        stored = halves(v, nothing());
    }
    let s = out_state[0];
    let low = f32(OUT_OFFSET) - f32(OUT_HALF);
    let high = f32(OUT_OFFSET) + f32(OUT_HALF) - 1.0;
    codes[at / 4u] = codes_under(stored, vec4<f32>(s.y), vec4<f32>(s.z), low, high, f32(OUT_OFFSET), nothing());
}
