#import common/differences.wgsl

// Operands of a product of heads that are codes, four in a word, less their stored zeros.

@group(0) @binding(1) var<storage, read> left: array<u32>;
@group(0) @binding(2) var<storage, read> right: array<u32>;

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
