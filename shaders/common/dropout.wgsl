// Which elements dropout keeps: a function of the seed, the place in the model and the element's index, in integers alone,
// so that every device keeps the same ones and the backward finds them again without a stored mask.

fn scramble(v: u32) -> u32 {
    var x = v;
    x ^= x >> 16u;
    x *= 0x7feb352du;
    x ^= x >> 15u;
    x *= 0x846ca68bu;
    return x ^ (x >> 16u);
}

// What all elements of one place share in one step.
fn dropout_keys(seed: u32, salt: u32) -> vec2<u32> {
    let first = scramble(scramble(seed + 0x9e3779b9u) ^ salt);
    return vec2<u32>(first, scramble(first + 0x9e3779b9u));
}

fn is_kept(index: u32, keys: vec2<u32>, threshold: u32) -> bool {
    return scramble(scramble(index ^ keys.x) ^ keys.y) >= threshold;
}

fn are_kept(index: u32, keys: vec2<u32>, threshold: u32) -> vec4<bool> {
    return vec4<bool>(
        is_kept(index, keys, threshold),
        is_kept(index + 1u, keys, threshold),
        is_kept(index + 2u, keys, threshold),
        is_kept(index + 3u, keys, threshold),
    );
}
