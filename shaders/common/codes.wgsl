// Codes are bytes, four to a word, the first one lowest.

// The byte at index i of the tensor that `word` is word i / 4 of.
fn byte_of(word: u32, i: u32) -> u32 {
    return extractBits(word, i % 4u * 8u, 8u);
}

// The code at index i of the tensor that `word` is word i / 4 of.
fn code_of(word: u32, i: u32) -> i32 {
    return extractBits(bitcast<i32>(word), i % 4u * 8u, 8u);
}

// A word of four bytes.
fn word_of(a: u32, b: u32, c: u32, d: u32) -> u32 {
    return a | b << 8u | c << 16u | d << 24u;
}
