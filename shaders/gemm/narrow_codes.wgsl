const PER_WORD = 4u;
const CHUNK_WORDS = 2u;

fn packed(words: vec4<u32>) -> vec2<u32> {
    return words.xy;
}
