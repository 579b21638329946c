#import common/differences.wgsl

// The left operand of a product of heads: codes, four in a word, less their stored zero.

@group(0) @binding(1) var<storage, read> left: array<u32>;

fn read_left(at: u32, valid: u32) -> vec4<f32> {
    let first = left[at / 4u];
    if LEFT_FOURS {
        return operand_of(vec4<f32>(unpack4xI8(first)) - zeros.x);
    }
    return operand_of(differences(first, left[(at + min(valid, 4u) - 1u) / 4u], at, valid, zeros.x));
}
