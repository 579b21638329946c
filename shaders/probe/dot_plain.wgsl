// The product of four signed bytes with four others, one after the other.
fn dot_bytes(a: u32, b: u32) -> u32 {
    let shifts = vec4<u32>(24u, 16u, 8u, 0u);
    let left = bitcast<vec4<i32>>(vec4<u32>(a) << shifts) >> vec4<u32>(24u);
    let right = bitcast<vec4<i32>>(vec4<u32>(b) << shifts) >> vec4<u32>(24u);
    return bitcast<u32>(dot(left, right));
}
