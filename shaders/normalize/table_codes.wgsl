#import common/codes.wgsl

// A table of codes, and the codes of a word.

@group(0) @binding(3) var<storage, read> table: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;

fn look_up(i: u32) -> u32 {
    return byte_of(table[i / 4u], i);
}

fn write_piece(word: u32, values: vec4<u32>) {
    y[word] = word_of(values.x, values.y, values.z, values.w);
}
