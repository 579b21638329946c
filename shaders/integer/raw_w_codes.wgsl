// Eight neighbouring elements of the right operand for cooperative matrices: codes.
alias RawW = vec2<u32>;

// Two codes and 128 each in the low bytes of halfwords, as halves. Behind an exponent of 2^10 an integer stands in the mantissa as
// it is, so the difference is exact: two instructions for two codes, where integers are converted one by one.
fn pair_w(biased: u32) -> vec2<f16> {
    return vec2<f16>(unpack2x16float(biased | 0x64006400u)) - 1152.0h;
}

fn four_w(codes: u32) -> vec4<f16> {
    let biased = codes ^ 0x80808080u;
    let low = (biased & 0xffu) | ((biased & 0xff00u) << 8u);
    let high = ((biased >> 16u) & 0xffu) | ((biased >> 8u) & 0xff0000u);
    return vec4<f16>(pair_w(low), pair_w(high));
}

fn low_w(raw: RawW) -> vec4<f16> {
    return four_w(raw.x);
}

fn high_w(raw: RawW) -> vec4<f16> {
    return four_w(raw.y);
}
