#import common/differences.wgsl

// The right operand of a product of heads: codes, four in a word, less their stored zero.

@group(0) @binding(2) var<storage, read> right: array<u32>;

fn read_right(at: u32, valid: u32) -> vec4<f32> {
    let first = right[at / 4u];
    if RIGHT_FOURS {
        return operand_of(vec4<f32>(unpack4xI8(first)) - zeros.y);
    }
    return operand_of(differences(first, right[(at + min(valid, 4u) - 1u) / 4u], at, valid, zeros.y));
}
