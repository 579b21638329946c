// The right operand of a convolution of fewer than eight channels, in chunks of CHUNK elements: weights [n, ky, RUN], each RUN filled up with
// zeros to RUN_CHUNKS chunks.

@group(0) @binding(2) var<storage, read> w: array<u32>;

alias RowW = u32;

struct TapW {
    offset: u32,
    count: i32,
}

// A row past the last is the last: what comes of it is not stored.
fn row_w(row: u32, group: u32) -> RowW {
    return min(row, p.n - 1u) * (p.k / (CHUNK * RUN_CHUNKS) * RUN);
}

fn tap_w(first: u32, within: u32, group: u32) -> TapW {
    let k = first + within;
    let chunk = k / CHUNK;
    let element = chunk % RUN_CHUNKS * CHUNK;
    return TapW(chunk / RUN_CHUNKS * RUN + element, select(0, min(i32(RUN - element), i32(CHUNK)), k < p.k));
}

fn load_w(row: RowW, tap: TapW) -> RawW {
    if tap.count == 0 {
        return RawW();
    }
    let start = row + tap.offset;
    let word = start / PER_WORD;
    let shift = start % PER_WORD * ELEMENT_BITS;
    let most = (start + u32(tap.count) - 1u) / PER_WORD;
    let w0 = w[word];
    let w1 = w[min(word + 1u, most)];
    let w2 = w[min(word + 2u, most)];
    var words = vec4<u32>(funnel(w0, w1, shift), funnel(w1, w2, shift), 0u, 0u);
    if CHUNK_WORDS > 2u {
        let w3 = w[min(word + 3u, most)];
        let w4 = w[min(word + 4u, most)];
        words.z = funnel(w2, w3, shift);
        words.w = funnel(w3, w4, shift);
    }
    return packed(words & counted(0, tap.count));
}
