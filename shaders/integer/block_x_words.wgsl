// A block of the left operand, word by word.
fn block_x(lane: LaneX, k: u32) -> Block {
    return Block(words_x(lane, k), words_x(lane, k + 4u), words_x(lane, k + 8u), words_x(lane, k + 12u));
}
