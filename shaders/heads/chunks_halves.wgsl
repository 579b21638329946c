// Chunks of halves.

const PER_WORD = 2u;
alias Eight = vec4<u32>;

fn widened(eight: Eight) -> vec4<u32> {
    return eight;
}

// Exact, and no instruction once compiled: WGSL's bitcast does not know f16 vectors in naga 30.
fn halves(words: vec2<u32>) -> vec4<f16> {
    return vec4<f16>(vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y)));
}

fn kept_halves(v: vec4<f16>, at: u32) -> vec4<f16> {
    if DROP_LEFT {
        return select(vec4<f16>(), v, are_kept(at, keys, p.threshold));
    }
    return v;
}

fn low_x(raw: Raw) -> vec4<f16> {
    return kept_halves(counted(halves(words_of(raw, LEFT_SHIFTS).xy), raw.count), raw.at);
}

fn high_x(raw: Raw) -> vec4<f16> {
    return kept_halves(counted(halves(words_of(raw, LEFT_SHIFTS).zw), count_behind(raw.count)), raw.at + 4u);
}

fn low_w(raw: Raw) -> vec4<f16> {
    return counted(halves(words_of(raw, RIGHT_SHIFTS).xy), raw.count);
}

fn high_w(raw: Raw) -> vec4<f16> {
    return counted(halves(words_of(raw, RIGHT_SHIFTS).zw), count_behind(raw.count));
}
