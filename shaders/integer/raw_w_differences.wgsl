// Eight neighbouring elements of the right operand for cooperative matrices: codes, less the stored zero.
alias RawW = vec2<u32>;

// Halves: exact, since a difference has nine bits.
fn low_w(raw: RawW) -> vec4<f16> {
    return vec4<f16>(unpack4xI8(raw.x) - i32(stored_zero()));
}

fn high_w(raw: RawW) -> vec4<f16> {
    return vec4<f16>(unpack4xI8(raw.y) - i32(stored_zero()));
}

// What stands outside of an image: the code of zero.
fn outside_w() -> RawW {
    return RawW(pack4xI8(vec4<i32>(i32(stored_zero()))));
}
