// Chunks of elements that begin anywhere, from words of PER_WORD elements: for convolutions of few channels. Nothing is an array or a vector
// with a changing index: compilers put those into memory.

const ELEMENT_BITS = 32u / PER_WORD;
const CHUNK_WORDS = CHUNK / PER_WORD;

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

// Ones for those elements of a chunk whose numbers in it are from `first` to below `end`.
fn counted(first: i32, end: i32) -> vec4<u32> {
    let each = i32(PER_WORD);
    let below = vec4<u32>(first_of(end), first_of(end - each), first_of(end - 2 * each), first_of(end - 3 * each));
    let before = vec4<u32>(first_of(first), first_of(first - each), first_of(first - 2 * each), first_of(first - 3 * each));
    return below & ~before;
}
