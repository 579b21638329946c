// Sixteen codes at a time, in four words.

const ONES = 0x01010101u;

// Four times the right operand's zero.
var<private> no_word: u32;

fn find_no_word() {
    no_word = (u32(i32(zeros.y)) & 0xffu) * ONES;
}

// The first `count` codes, and the right operand's zero behind them.
fn counted(sixteen: vec4<u32>, count: u32) -> vec4<u32> {
    let first = vec4<u32>(0u, 4u, 8u, 12u);
    let in_word = min(max(vec4<u32>(count), first) - first, vec4<u32>(4u));
    // In two steps: there is no shift by 32.
    let mask = (vec4<u32>(0xffffffffu) << (in_word * 4u)) << (in_word * 4u);
    return (sixteen & ~mask) | (vec4<u32>(no_word) & mask);
}

// The words that begin `at` codes behind the beginning of the first of five.
fn shifted(words: vec4<u32>, behind: u32, at: u32) -> vec4<u32> {
    let shift = at % 4u * 8u;
    let next = vec4<u32>(words.yzw, behind);
    // In two steps: there is no shift by 32.
    return (words >> vec4<u32>(shift)) | (next << vec4<u32>(31u - shift) << vec4<u32>(1u));
}
