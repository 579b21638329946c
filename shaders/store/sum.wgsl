// The codes of a sum with one more operand, which is as long as the result or REPEATS every ADDEND vectors.

@group(0) @binding(AT_ADDEND) var<storage, read> addend: array<element_addend4>;

fn store_sum(i: u32, stored: vec4<f32>) {
    var j = i;
    if REPEATS {
        j = i % ADDEND;
    }
    write_codes(i, as_stored(stored + vec4<f32>(addend[j])), PLAIN, QUANTIZERS);
}
