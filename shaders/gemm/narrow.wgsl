// Chunks of eight elements that begin anywhere, from words of PER_WORD elements: for convolutions of few channels.

const ELEMENT_BITS = 32u / PER_WORD;

// A word that begins in the middle of one and ends in the next.
fn funnel(low: u32, high: u32, shift: u32) -> u32 {
    // In two steps: there is no shift by 32.
    return (low >> shift) | (high << (31u - shift) << 1u);
}

// Ones for the first elements of a word.
fn first_of(count: i32) -> u32 {
    if count >= i32(PER_WORD) {
        return 0xffffffffu;
    }
    return (1u << (u32(max(count, 0)) * ELEMENT_BITS)) - 1u;
}

// Ones for those elements of a chunk's i-th word whose numbers in the chunk are from `first` to below `end`.
fn counted(first: i32, end: i32, i: u32) -> u32 {
    let before = i32(i * PER_WORD);
    return first_of(end - before) & ~first_of(first - before);
}
