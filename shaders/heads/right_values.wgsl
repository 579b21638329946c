// The right operand's chunks are codes, which become the values that they stand for.

const PER_WORD_RIGHT = 4u;
alias EightRight = vec2<u32>;

fn widened_right(eight: EightRight) -> vec4<u32> {
    return vec4<u32>(eight, 0u, 0u);
}

fn low_w(raw: Raw) -> vec4<f16> {
    return counted(values(words_of(raw, RIGHT_SHIFTS, PER_WORD_RIGHT).x), raw.count);
}

fn high_w(raw: Raw) -> vec4<f16> {
    return counted(values(words_of(raw, RIGHT_SHIFTS, PER_WORD_RIGHT).y), count_behind(raw.count));
}
