// Chunks of codes, less their stored zeros.

const PER_WORD = 4u;
alias Eight = vec2<u32>;

fn widened(eight: Eight) -> vec4<u32> {
    return vec4<u32>(eight, 0u, 0u);
}

// Two codes and 128 each in the low bytes of halfwords, less a zero and 1152. Behind an exponent of 2^10 an integer stands in the
// mantissa as it is, so the difference is exact: two instructions for two codes, where integers are converted one by one.
fn pair(biased: u32, zero: f16) -> vec2<f16> {
    return vec2<f16>(unpack2x16float(biased | 0x64006400u)) - zero;
}

fn differences(codes: u32, zero: f32) -> vec4<f16> {
    let biased = codes ^ 0x80808080u;
    let low = (biased & 0xffu) | ((biased & 0xff00u) << 8u);
    let high = ((biased >> 16u) & 0xffu) | ((biased >> 8u) & 0xff0000u);
    let shifted_zero = f16(1152.0 + zero);
    return vec4<f16>(pair(low, shifted_zero), pair(high, shifted_zero));
}

fn low_x(raw: Raw) -> vec4<f16> {
    return counted(differences(words_of(raw, LEFT_SHIFTS).x, zeros.x), raw.count);
}

fn high_x(raw: Raw) -> vec4<f16> {
    return counted(differences(words_of(raw, LEFT_SHIFTS).y, zeros.x), count_behind(raw.count));
}

fn low_w(raw: Raw) -> vec4<f16> {
    return counted(differences(words_of(raw, RIGHT_SHIFTS).x, zeros.y), raw.count);
}

fn high_w(raw: Raw) -> vec4<f16> {
    return counted(differences(words_of(raw, RIGHT_SHIFTS).y, zeros.y), count_behind(raw.count));
}
