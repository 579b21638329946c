#import common/sums_of_codes.wgsl

// What attention on codes is of: the rows of its map, their softmax, the quantizer of the map, and the tokens.

struct Params {
    rows: u32,
    pieces: u32,
    rows_of_mask: u32,
    keys: u32,
    queries: u32,
    heads: u32,
    depth: u32,
    scale: f32,
    high: f32,
    offset: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
// [4 · heads]: of the queries, the keys, the map and the values.
@group(0) @binding(5) var<storage, read> states: array<vec4<f32>>;

const OF_QUERIES = 0u;
const OF_KEYS = 1u;
const OF_MAP = 2u;
const OF_VALUES = 3u;

fn state_of(operand: u32, head: u32) -> vec4<f32> {
    return states[operand * p.heads + head];
}

// 0, which the compiler does not know: see `rounded`.
fn nothing() -> u32 {
    return p.rows >> 31u;
}

// Scores from sums as floats, as a map of them has them. In halves a product is rounded again at once, so that nothing can be joined to it.
fn scaled(sums: vec4<f32>, factor: f32) -> vec4<f32> {
    if HALF_Y {
        return stored(sums * factor);
    }
    return rounded4(sums * factor, nothing());
}

// The four scores that sums of products of queries and keys stand for.
fn scores_of(sums: vec4<i32>, factor: f32) -> vec4<f32> {
    if SMALL_SCORES {
        return scaled(floats_of_small(sums), factor);
    }
    return scaled(nearest_floats(sums), factor);
}

// Four codes of a map. They have no lower limit: a weight is no less than 0, whose code is one of the levels.
fn map_codes(y: vec4<f32>, state: vec4<f32>) -> u32 {
    let u = rounded4(stored(y) * state.y, nothing()) + state.z;
    return word_of_levels(min(u, vec4<f32>(p.high)), p.offset);
}
