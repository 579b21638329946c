// A chunk is four words.
fn packed(words: vec4<u32>) -> vec4<u32> {
    return words;
}
