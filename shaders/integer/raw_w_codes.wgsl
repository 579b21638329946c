// Eight neighbouring elements of the right operand for cooperative matrices: codes.
alias RawW = vec2<u32>;

// The codes as halves: exact.
fn low_w(raw: RawW) -> vec4<f16> {
    return vec4<f16>(unpack4xI8(raw.x));
}

fn high_w(raw: RawW) -> vec4<f16> {
    return vec4<f16>(unpack4xI8(raw.y));
}
