// Eight neighbouring elements of the right operand: halves.
alias RawW = vec4<u32>;

// Four halves from two words. Exact, and no instruction once compiled: WGSL's bitcast does not know f16 vectors in naga 30.
fn low_w(raw: RawW) -> vec4<f16> {
    return vec4<f16>(vec4<f32>(unpack2x16float(raw.x), unpack2x16float(raw.y)));
}

fn high_w(raw: RawW) -> vec4<f16> {
    return vec4<f16>(vec4<f32>(unpack2x16float(raw.z), unpack2x16float(raw.w)));
}

// What stands outside of an image.
fn outside_w() -> RawW {
    return RawW();
}
