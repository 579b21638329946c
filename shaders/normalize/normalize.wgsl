#import common/index.wgsl
#import common/codes.wgsl

// The pixels that a network sees, from bytes: a table has the value of every byte in every channel, padding is zero. An invocation
// takes a word of four bytes, which are of two pixels.

struct Params {
    n: u32,
    words: u32,
    height: u32,
    width: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> bytes: array<u32>;
@group(0) @binding(2) var<storage, read> source: array<u32>;
@group(0) @binding(3) var<storage, read> table: array<element_y>;

fn is_picture(pixel: u32) -> bool {
    let row = pixel / p.width;
    return valid(row / p.height, row % p.height, pixel % p.width) != 0u;
}

// The value of byte `i` of a word whose first byte is of `channel`.
fn value(word: u32, i: u32, channel: u32, is_valid: vec2<bool>) -> element_y {
    let behind = channel + i >= 3u;
    let c = channel + i - select(0u, 3u, behind);
    let v = table[3u * byte_of(word, i) + c];
    return select(element_y(0.0), v, select(is_valid.x, is_valid.y, behind));
}

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i >= p.words {
        return;
    }
    let pixel = 4u * i / 3u;
    let channel = 4u * i % 3u;
    let is_valid = vec2<bool>(is_picture(pixel), is_picture(min(pixel + 1u, p.n / 3u - 1u)));
    let word = bytes[i];
    let a = value(word, 0u, channel, is_valid);
    let b = value(word, 1u, channel, is_valid);
    let c = value(word, 2u, channel, is_valid);
    let d = value(word, 3u, channel, is_valid);
    write_piece(i, element_y4(a, b, c, d));
}
