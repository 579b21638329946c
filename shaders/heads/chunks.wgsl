// The operands of a product of heads in chunks of eight neighbouring elements, for gemm/slices.wgsl.
//
// Neighbours are neighbouring k or, with X_ACROSS and W_ACROSS, neighbouring rows of the tile. A chunk may begin in the middle of a
// word (LEFT_SHIFTS, RIGHT_SHIFTS) and reach past the end of a line: then fewer than eight of its elements count, and the
// others become zeros. Loads do not branch: where nothing counts, they read the first element.

// What a row of the tile, or a k, adds to an element's place, and how many elements it lets count.
struct Span {
    offset: u32,
    count: u32,
}

alias RowX = Span;
alias RowW = Span;
alias TapX = Span;
alias TapW = Span;

// The words of a chunk and the one behind them, the chunk's place, and how many elements count.
struct Raw {
    words: vec4<u32>,
    behind: u32,
    at: u32,
    count: u32,
}

alias RawX = Raw;
alias RawW = Raw;

// A line of elements, or none.
fn line(offset: u32, exists: bool) -> Span {
    return Span(offset, select(0u, 8u, exists));
}

// A place in a line that ends at `end`.
fn place(offset: u32, at: u32, end: u32) -> Span {
    return Span(offset, select(0u, end - at, at < end));
}

fn row_x(row: u32, group: u32) -> Span {
    let start = group / p.heads * p.left_batch + group % p.heads * p.left_head;
    if X_ACROSS {
        return place(start + row, row, p.m);
    }
    return line(start + row * p.left_row, row < p.m);
}

fn tap_x(first: u32, within: u32, group: u32) -> Span {
    let k = first + within;
    if X_ACROSS {
        return line(k * p.left_row, k < p.k);
    }
    return place(k, k, p.k);
}

fn load_x(row: Span, tap: Span) -> Raw {
    let count = min(min(row.count, tap.count), 8u);
    return load_left(select(0u, row.offset + tap.offset, count > 0u), count);
}

fn row_w(column: u32, group: u32) -> Span {
    let start = group / p.heads * p.right_batch + group % p.heads * p.right_head;
    if W_ACROSS {
        return place(start + column, column, p.n);
    }
    return line(start + column * p.right_row, column < p.n);
}

fn tap_w(first: u32, within: u32, group: u32) -> Span {
    let k = first + within;
    if W_ACROSS {
        return line(k * p.right_row, k < p.k);
    }
    return place(k, k, p.k);
}

fn load_w(row: Span, tap: Span) -> Raw {
    let count = min(min(row.count, tap.count), 8u);
    return load_right(select(0u, row.offset + tap.offset, count > 0u), count);
}

// The words as they would be if the chunk began with one.
fn words_of(raw: Raw, shifts: bool, per_word: u32) -> vec4<u32> {
    if !shifts {
        return raw.words;
    }
    let shift = raw.at % per_word * (32u / per_word);
    let next = vec4<u32>(raw.words.yzw, raw.behind);
    // In two steps: there is no shift by 32.
    return (raw.words >> vec4<u32>(shift)) | (next << vec4<u32>(31u - shift) << vec4<u32>(1u));
}

// Four halves. Exact, and no instruction once compiled: WGSL's bitcast does not know f16 vectors in naga 30.
fn floats(words: vec2<u32>) -> vec4<f16> {
    return vec4<f16>(vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y)));
}

// Four elements of which the first `count` count.
fn counted(v: vec4<f16>, count: u32) -> vec4<f16> {
    return select(vec4<f16>(), v, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(count));
}

fn count_behind(count: u32) -> u32 {
    return max(count, 4u) - 4u;
}
