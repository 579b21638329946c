// The right operand of a convolution of fewer than eight channels, in chunks of eight: weights [n, ky, RUN], each RUN filled up with
// zeros to RUN_CHUNKS chunks.

@group(0) @binding(2) var<storage, read> w: array<u32>;

alias RowW = u32;

struct TapW {
    offset: u32,
    count: i32,
}

// A row past the last is the last: what comes of it is not stored.
fn row_w(row: u32, group: u32) -> RowW {
    return min(row, p.n - 1u) * (p.k / (8u * RUN_CHUNKS) * RUN);
}

fn tap_w(first: u32, within: u32, group: u32) -> TapW {
    let k = first + within;
    let chunk = k / 8u;
    let element = chunk % RUN_CHUNKS * 8u;
    return TapW(chunk / RUN_CHUNKS * RUN + element, select(0, min(i32(RUN - element), 8), k < p.k));
}

fn load_w(row: RowW, tap: TapW) -> RawW {
    if tap.count == 0 {
        return RawW();
    }
    let start = row + tap.offset;
    let word = start / PER_WORD;
    let shift = start % PER_WORD * ELEMENT_BITS;
    let most = (start + u32(tap.count) - 1u) / PER_WORD;
    var words = vec4<u32>();
    var low = w[word];
    for (var i = 0u; i < CHUNK_WORDS; i++) {
        let high = w[min(word + i + 1u, most)];
        words[i] = funnel(low, high, shift) & counted(0, tap.count, i);
        low = high;
    }
    return packed(words);
}
