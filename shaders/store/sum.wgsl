// The sum with one more operand, which is as long as the result or REPEATS every ADDEND vectors.

@group(0) @binding(AT_ADDEND) var<storage, read> addend: array<element_addend4>;

fn addend_at(i: u32) -> element_addend4 {
    var j = i;
    if REPEATS {
        j = i % ADDEND;
    }
    return addend[j];
}

fn with_addend(stored: vec4<f32>, added: element_addend4) -> vec4<f32> {
    return as_stored(stored + vec4<f32>(added));
}
