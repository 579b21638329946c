#import common/differences.wgsl
#import common/index.wgsl
#import common/quantized.wgsl
#import common/reduce.wgsl

// y = codes(softmax(q kᵀ)) v for each head, on codes: for heads of any size and rows of any length. LANES invocations a row, and several
// rows in a workgroup, as a softmax by itself has them (softmax/row.wgsl), which reads here what it is of where it is computed. The
// codes of the rows lie in workgroup memory.

const ROWS = GROUP / LANES;
// Words of codes in a row.
const WORDS = LANES * STEPS;

@group(0) @binding(1) var<storage, read> q: array<u32>;
@group(0) @binding(3) var<storage, read> k: array<u32>;
@group(0) @binding(4) var<storage, read> v: array<u32>;

var<workgroup> sh_map: array<u32, ROWS * WORDS>;

// The last word that four elements at `at` are in, if so many count.
fn last_word(at: u32, valid: u32) -> u32 {
    return (at + min(valid, 4u) - 1u) / 4u;
}

fn read_q(at: u32, valid: u32, zero: f32) -> vec4<i32> {
    return vec4<i32>(differences(q[at / 4u], q[last_word(at, valid)], at, valid, zero));
}

fn read_k(at: u32, valid: u32, zero: f32) -> vec4<i32> {
    return vec4<i32>(differences(k[at / 4u], k[last_word(at, valid)], at, valid, zero));
}

fn read_v(at: u32, valid: u32, zero: f32) -> vec4<i32> {
    return vec4<i32>(differences(v[at / 4u], v[last_word(at, valid)], at, valid, zero));
}

// Where a row of the map has its head's channels in tokens of which every image has so many.
fn token_at(row: u32, length: u32, token: u32) -> u32 {
    let head = row / p.queries % p.heads;
    let image = row / (p.queries * p.heads);
    return ((image * length + token) * p.heads + head) * p.depth;
}

fn product_of(row: u32, key: u32, zeros: vec2<f32>) -> i32 {
    let at_q = token_at(row, p.queries, row % p.queries);
    let at_k = token_at(row, p.keys, min(key, p.keys - 1u));
    var sum = 0;
    for (var c = 0u; c < p.depth; c += 4u) {
        sum += dot(read_q(at_q + c, p.depth - c, zeros.x), read_k(at_k + c, p.depth - c, zeros.y));
    }
    return sum;
}

// The scores of a piece of a row.
fn read_x(row: u32, piece: u32) -> vec4<f32> {
    let head = row / p.queries % p.heads;
    let queries = state_of(OF_QUERIES, head);
    let keys = state_of(OF_KEYS, head);
    let zeros = vec2<f32>(queries.w, keys.w);
    let key = piece * 4u;
    let sums = vec4<i32>(
        product_of(row, key, zeros),
        product_of(row, key + 1u, zeros),
        product_of(row, key + 2u, zeros),
        product_of(row, key + 3u, zeros),
    );
    return scores_of(sums, factor_of(queries, keys, p.scale, nothing()));
}

// Four channels of a row's result, from `c`.
fn mix(row: u32, place: u32, c: u32) -> vec4<f32> {
    let head = row / p.queries % p.heads;
    let map = state_of(OF_MAP, head);
    let values = state_of(OF_VALUES, head);
    var total = vec4<i32>();
    for (var key = 0u; key < p.keys; key++) {
        let codes = unpack4xI8(sh_map[place * WORDS + key / 4u]);
        total += (codes[key % 4u] - i32(map.w)) * read_v(token_at(row, p.keys, key) + c, p.depth - c, values.w);
    }
    return rounded4(nearest_floats(total) * factor_of(map, values, 1.0, nothing()), nothing());
}

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let first = flat_group(group, groups) * ROWS;
    let row = first + local / LANES;
    let total = find_total(local, find_largest(local, row));
    let state = state_of(OF_MAP, row / p.queries % p.heads);
    for (var i = 0u; i < STEPS; i++) {
        sh_map[local / LANES * WORDS + local % LANES + i * LANES] = map_codes(weights[i] / total, state);
    }
    workgroupBarrier();

    let fours = (p.depth + 3u) / 4u;
    for (var slot = local; slot < ROWS * fours; slot += GROUP) {
        let place = slot / fours;
        let c = slot % fours * 4u;
        if first + place < p.rows {
            let at = token_at(first + place, p.queries, (first + place) % p.queries) + c;
            write_y(at, mix(first + place, place, c), p.depth - c);
        }
    }
}
