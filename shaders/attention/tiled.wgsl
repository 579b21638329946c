#import common/gaussian.wgsl

// Masked softmax attention in one pass over the keys: y = softmax(q kᵀ · scale) v for each head.
//
// A workgroup takes QUERIES queries of one head and shares each tile of KEYS keys and values between them. SPLITS invocations
// serve a query, each with every SPLITS-th key of the tile, a running maximum, a running sum and a running weighted sum of the
// values; in the end they are joined in a fixed order. DEPTH counts the vec4s of a head. Scores are kept in units of log 2.
//
// A masked key's score is MASKED, a large finite negative: its weight becomes 0 with the first valid key, and a query
// without any valid key gets the mean of all values. PRIOR adds SMCA's Gaussian to the scores; the keys are the cells of a grid.

const MASKED = -1e30;
const LOG2_E = 1.4426950408889634;
const THREADS = QUERIES * SPLITS;
const PER_SPLIT = KEYS / SPLITS;
// One vec4 more than a row needs, so that the rows of neighbouring keys begin in different banks.
const ROW = DEPTH + 1u;

struct Params {
    queries: u32,
    keys: u32,
    // vec4s in a token: all heads
    pieces: u32,
    // 1 / sqrt(head dimension) / ln 2
    scale: f32,
    columns: u32,
    inverse_columns: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<element4>;
@group(0) @binding(2) var<storage, read> k: array<element4>;
@group(0) @binding(3) var<storage, read> v: array<element4>;
@group(0) @binding(4) var<storage, read> mask: array<u32>;
// [B, queries, heads] each
@group(0) @binding(5) var<storage, read> centre: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read> inverse_width: array<vec2<f32>>;
@group(0) @binding(7) var<storage, read_write> y: array<element4>;

var<workgroup> key_tile: array<vec4<f32>, KEYS * ROW>;
var<workgroup> value_tile: array<vec4<f32>, KEYS * ROW>;
var<workgroup> valid_tile: array<u32, KEYS>;
var<workgroup> cell_tile: array<vec2<f32>, KEYS>;
var<workgroup> largest: array<f32, THREADS>;
var<workgroup> sums: array<f32, THREADS>;
var<workgroup> weighted: array<vec4<f32>, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let split = local / QUERIES;
    let query = group.x * QUERIES + local % QUERIES;
    let head = group.y * DEPTH;
    let first_key = group.z * p.keys;
    // A query past the end computes what the last one does and writes nothing.
    let q_start = (group.z * p.queries + min(query, p.queries - 1u)) * p.pieces + head;

    var mine: array<vec4<f32>, DEPTH>;
    var sum: array<vec4<f32>, DEPTH>;
    for (var c = 0u; c < DEPTH; c++) {
        mine[c] = vec4<f32>(q[q_start + c]) * p.scale;
        sum[c] = vec4<f32>();
    }
    var top = MASKED;
    var total = 0.0;
    var my_centre = vec2<f32>();
    var my_inverse_width = vec2<f32>();
    if PRIOR {
        let at = (group.z * p.queries + min(query, p.queries - 1u)) * (p.pieces / DEPTH) + group.y;
        my_centre = centre[at];
        my_inverse_width = inverse_width[at];
    }

    // Each invocation carries one vec4 of the next tile in registers while the tile before it is in use.
    let row = local / DEPTH;
    let piece = local % DEPTH;
    let carries = local < KEYS * DEPTH;
    var next_key = vec4<f32>();
    var next_value = vec4<f32>();
    var next_valid = 1u;
    for (var tile = 0u; tile < p.keys; tile += KEYS) {
        if tile == 0u {
            let at = first_key + min(row, p.keys - 1u);
            next_key = vec4<f32>(k[at * p.pieces + head + piece]);
            next_value = vec4<f32>(v[at * p.pieces + head + piece]);
            if HAS_MASK {
                next_valid = mask[first_key + min(local, p.keys - 1u)];
            }
        }
        workgroupBarrier();
        if carries {
            key_tile[row * ROW + piece] = next_key;
            value_tile[row * ROW + piece] = next_value;
        }
        if local < KEYS {
            valid_tile[local] = next_valid;
            if PRIOR {
                cell_tile[local] = cell_of(min(tile + local, p.keys - 1u), p.columns, p.inverse_columns);
            }
        }
        workgroupBarrier();
        if tile + KEYS < p.keys {
            let at = first_key + min(tile + KEYS + row, p.keys - 1u);
            next_key = vec4<f32>(k[at * p.pieces + head + piece]);
            next_value = vec4<f32>(v[at * p.pieces + head + piece]);
            if HAS_MASK {
                next_valid = mask[first_key + min(tile + KEYS + local, p.keys - 1u)];
            }
        }

        var scores: array<f32, PER_SPLIT>;
        var new_top = top;
        for (var j = 0u; j < PER_SPLIT; j++) {
            let key = j * SPLITS + split;
            var products = vec4<f32>();
            for (var c = 0u; c < DEPTH; c++) {
                products += mine[c] * key_tile[key * ROW + c];
            }
            var score = (products.x + products.y) + (products.z + products.w);
            if PRIOR {
                score += gaussian(my_centre, my_inverse_width, cell_tile[key]) * LOG2_E;
            }
            // The last tile repeats the last key behind the end: it changes no maximum, and its weight is 0 below.
            scores[j] = select(score, MASKED, valid_tile[key] == 0u);
            new_top = max(new_top, scores[j]);
        }
        let shrink = exp2(top - new_top);
        top = new_top;
        total *= shrink;
        for (var c = 0u; c < DEPTH; c++) {
            sum[c] *= shrink;
        }
        for (var j = 0u; j < PER_SPLIT; j++) {
            let key = j * SPLITS + split;
            let weight = select(exp2(scores[j] - top), 0.0, tile + key >= p.keys);
            total += weight;
            for (var c = 0u; c < DEPTH; c++) {
                sum[c] += weight * value_tile[key * ROW + c];
            }
        }
    }

    largest[local] = top;
    sums[local] = total;
    workgroupBarrier();
    var all_top = MASKED;
    for (var s = local % QUERIES; s < THREADS; s += QUERIES) {
        all_top = max(all_top, largest[s]);
    }
    var all_total = 0.0;
    for (var s = local % QUERIES; s < THREADS; s += QUERIES) {
        all_total += sums[s] * exp2(largest[s] - all_top);
    }
    let share = exp2(top - all_top) / all_total;
    for (var c = 0u; c < DEPTH; c++) {
        // A loop with barriers is not unrolled, and an array that is indexed at run time lives in memory instead of registers:
        // so the element is picked by comparing.
        var piece_of_sum = vec4<f32>();
        for (var i = 0u; i < DEPTH; i++) {
            piece_of_sum = select(piece_of_sum, sum[i], i == c);
        }
        weighted[local] = piece_of_sum * share;
        workgroupBarrier();
        // The splits take turns at joining, so that the work of writing is spread.
        if split == c % SPLITS && query < p.queries {
            var joined = vec4<f32>();
            for (var s = local % QUERIES; s < THREADS; s += QUERIES) {
                joined += weighted[s];
            }
            y[q_start + c] = element4(joined);
        }
        workgroupBarrier();
    }
}
