// The left operand's chunks are halves.

const PER_WORD_LEFT = 2u;
alias EightLeft = vec4<u32>;

fn widened_left(eight: EightLeft) -> vec4<u32> {
    return eight;
}

fn low_x(raw: Raw) -> vec4<f16> {
    return select(vec4<f16>(), counted(floats(words_of(raw, LEFT_SHIFTS, PER_WORD_LEFT).xy), raw.count), kept(raw.at));
}

fn high_x(raw: Raw) -> vec4<f16> {
    return select(vec4<f16>(), counted(floats(words_of(raw, LEFT_SHIFTS, PER_WORD_LEFT).zw), count_behind(raw.count)), kept(raw.at + 4u));
}
