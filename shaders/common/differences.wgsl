// Four codes at `at` less their zero, of which the `valid` first count and the others become 0, from the words of the first
// and of the last that counts.
fn differences(first: u32, last: u32, at: u32, valid: u32, zero: f32) -> vec4<f32> {
    let shift = at % 4u * 8u;
    // In two steps: there is no shift by 32.
    let word = (first >> shift) | (last << (31u - shift) << 1u);
    let v = vec4<f32>(unpack4xI8(word)) - zero;
    return select(vec4<f32>(), v, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(valid));
}
