// A chunk is two words.
fn packed(words: vec4<u32>) -> vec2<u32> {
    return words.xy;
}
