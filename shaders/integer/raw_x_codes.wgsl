// Eight neighbouring elements of the left operand for cooperative matrices: codes.
alias RawX = vec2<u32>;

// The codes as halves: exact.
fn low_x(raw: RawX) -> vec4<f16> {
    return vec4<f16>(unpack4xI8(raw.x));
}

fn high_x(raw: RawX) -> vec4<f16> {
    return vec4<f16>(unpack4xI8(raw.y));
}
