// The left operand's chunks are codes, which become the values that they stand for.

const PER_WORD_LEFT = 4u;
alias EightLeft = vec2<u32>;

fn widened_left(eight: EightLeft) -> vec4<u32> {
    return vec4<u32>(eight, 0u, 0u);
}

fn low_x(raw: Raw) -> vec4<f16> {
    return counted(values(words_of(raw, LEFT_SHIFTS, PER_WORD_LEFT).x), raw.count);
}

fn high_x(raw: Raw) -> vec4<f16> {
    return counted(values(words_of(raw, LEFT_SHIFTS, PER_WORD_LEFT).y), count_behind(raw.count));
}
