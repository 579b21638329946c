// The sum with one more operand, which is as long as the result or REPEATS every ADDEND vectors.

@group(0) @binding(AT_ADDEND) var<storage, read> addend: array<element_addend4>;

fn with_addend(i: u32, stored: vec4<f32>) -> vec4<f32> {
    var j = i;
    if REPEATS {
        j = i % ADDEND;
    }
    return as_stored(stored + vec4<f32>(addend[j]));
}
