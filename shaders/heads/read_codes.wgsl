// Operands of a product of heads that are codes, four in a word, less their stored zeros.

@group(0) @binding(1) var<storage, read> left: array<u32>;
@group(0) @binding(2) var<storage, read> right: array<u32>;

// Four codes at `at` less their zero, of which the `valid` first count and the others become 0, from the words of the first
// and of the last that counts.
fn differences(first: u32, last: u32, at: u32, valid: u32, zero: f32) -> vec4<f32> {
    let shift = at % 4u * 8u;
    // In two steps: there is no shift by 32.
    let word = (first >> shift) | (last << (31u - shift) << 1u);
    let v = vec4<f32>(unpack4xI8(word)) - zero;
    return select(vec4<f32>(), v, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(valid));
}

fn read_left(at: u32, valid: u32) -> vec4<f32> {
    let first = left[at / 4u];
    if LEFT_FOURS {
        return vec4<f32>(unpack4xI8(first)) - zeros.x;
    }
    return differences(first, left[(at + min(valid, 4u) - 1u) / 4u], at, valid, zeros.x);
}

fn read_right(at: u32, valid: u32) -> vec4<f32> {
    let first = right[at / 4u];
    if RIGHT_FOURS {
        return vec4<f32>(unpack4xI8(first)) - zeros.y;
    }
    return differences(first, right[(at + min(valid, 4u) - 1u) / 4u], at, valid, zeros.y);
}
