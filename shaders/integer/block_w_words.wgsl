// A block of the right operand, word by word.
fn block_w(row: u32, k: u32) -> Block {
    return Block(words_w(row, k), words_w(row, k + 4u), words_w(row, k + 8u), words_w(row, k + 12u));
}
