// The right operand's chunks are halves.

const PER_WORD_RIGHT = 2u;
alias EightRight = vec4<u32>;

fn widened_right(eight: EightRight) -> vec4<u32> {
    return eight;
}

fn low_w(raw: Raw) -> vec4<f16> {
    return counted(floats(words_of(raw, RIGHT_SHIFTS, PER_WORD_RIGHT).xy), raw.count);
}

fn high_w(raw: Raw) -> vec4<f16> {
    return counted(floats(words_of(raw, RIGHT_SHIFTS, PER_WORD_RIGHT).zw), count_behind(raw.count));
}
