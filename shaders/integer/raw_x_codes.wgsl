// Eight neighbouring elements of the left operand for cooperative matrices: codes.
alias RawX = vec2<u32>;

// Two codes and 128 each in the low bytes of halfwords, as halves. Behind an exponent of 2^10 an integer stands in the mantissa as
// it is, so the difference is exact: two instructions for two codes, where integers are converted one by one.
fn pair_x(biased: u32) -> vec2<f16> {
    return vec2<f16>(unpack2x16float(biased | 0x64006400u)) - 1152.0h;
}

fn four_x(codes: u32) -> vec4<f16> {
    let biased = codes ^ 0x80808080u;
    let low = (biased & 0xffu) | ((biased & 0xff00u) << 8u);
    let high = ((biased >> 16u) & 0xffu) | ((biased >> 8u) & 0xff0000u);
    return vec4<f16>(pair_x(low), pair_x(high));
}

fn low_x(raw: RawX) -> vec4<f16> {
    return four_x(loaded(raw.x, loading()));
}

fn high_x(raw: RawX) -> vec4<f16> {
    return four_x(loaded(raw.y, loading()));
}
