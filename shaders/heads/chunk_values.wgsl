// The values of four codes, as halves. Behind an exponent of 2^10 a code and 128 stand in a half's mantissa as they are, so that the
// difference to the zero is exact: two instructions for two codes, where integers are converted one by one.
fn values(codes: u32) -> vec4<f16> {
    let biased = codes ^ 0x80808080u;
    let even = vec2<f16>(unpack2x16float((biased & 0x00ff00ffu) | 0x64006400u)) - f16(1152.0 + zeros.x);
    let odd = vec2<f16>(unpack2x16float(((biased >> 8u) & 0x00ff00ffu) | 0x64006400u)) - f16(1152.0 + zeros.x);
    return vec4<f16>(alpha * vec4<f32>(vec4<f16>(even.x, odd.x, even.y, odd.y)));
}
