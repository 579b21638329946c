// The left operand of a convolution of fewer than eight channels, in chunks of CHUNK elements. What a row of a window's taps covers lies in
// one piece in the image, RUN elements: k runs over (ky, element of that piece), each piece filled up to RUN_CHUNKS chunks. What
// stands in the filling meets zeros of the weights.

@group(0) @binding(1) var<storage, read> x: array<u32>;

// A place's `x` counts elements here, not pixels.
fn tap_x(first: u32, within: u32, group: u32) -> Place {
    let k = first + within;
    if k >= p.k {
        return Place(0, OUTSIDE, 0);
    }
    let chunk = k / CHUNK;
    let ky = i32(chunk / RUN_CHUNKS);
    let element = i32(chunk % RUN_CHUNKS * CHUNK);
    return Place(ky * i32(p.width * p.channels) + element, ky, element);
}

fn load_x(row: RowX, tap: Place) -> RawX {
    let outside = outside_x();
    // Of the image's line what is left of the chunk; of the piece too, if elements are floats, whose products with zeros may be NaN.
    let at = row.x * i32(p.channels) + tap.x;
    let first = clamp(-at, 0, i32(CHUNK));
    let last = select(i32(RUN) - tap.x, i32(CHUNK), PER_WORD == 4u);
    let end = clamp(min(i32(p.width * p.channels) - at, last), 0, i32(CHUNK));
    if row.y == OUTSIDE || u32(row.y + tap.y) >= p.height || first >= end {
        return outside;
    }
    let start = row.offset + tap.offset;
    // Negative before the first word: an arithmetic shift rounds down.
    let word = start >> firstTrailingBit(PER_WORD);
    let shift = (u32(start) % PER_WORD) * ELEMENT_BITS;
    let least = (start + first) / i32(PER_WORD);
    let most = (start + end - 1) / i32(PER_WORD);
    let w0 = x[max(word, least)];
    let w1 = x[clamp(word + 1, least, most)];
    let w2 = x[clamp(word + 2, least, most)];
    var words = vec4<u32>(funnel(w0, w1, shift), funnel(w1, w2, shift), 0u, 0u);
    if CHUNK_WORDS > 2u {
        let w3 = x[clamp(word + 3, least, most)];
        let w4 = x[clamp(word + 4, least, most)];
        words.z = funnel(w2, w3, shift);
        words.w = funnel(w3, w4, shift);
    }
    if end - first == i32(CHUNK) {
        return packed(words);
    }
    let kept = counted(first, end);
    return packed((words & kept) | (vec4<u32>(outside.x) & ~kept));
}
