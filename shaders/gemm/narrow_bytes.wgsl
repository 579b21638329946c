const PER_WORD = 4u;
const CHUNK_WORDS = 4u;

fn packed(words: vec4<u32>) -> vec4<u32> {
    return words;
}
