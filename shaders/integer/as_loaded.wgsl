// Codes of x are multiplied as they are in memory.

const RECODES = false;

struct Loading {
    nothing: u32,
}

fn loading() -> Loading {
    return Loading();
}

fn loaded(word: u32, given: Loading) -> u32 {
    return word;
}

fn loaded4(words: vec4<u32>, given: Loading) -> vec4<u32> {
    return words;
}
