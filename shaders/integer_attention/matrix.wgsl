#import common/index.wgsl
#import common/quantized.wgsl

// y = codes(softmax(q kᵀ)) v for each head of 32 channels, on cooperative matrices of bytes: what is called coop_mat16x16<f32, ..> here
// are 16 x 32 and 32 x 16 codes and 16 x 16 i32 (gpu/byte_matrices.rs).
//
// A workgroup takes sixteen queries of a head. In each of up to four steps a subgroup (32 lanes) has a strip of 32 keys, eight pieces of
// four columns, as eight lanes of a softmax by itself would have them: SUBGROUPS · 8 are the LANES of a row there. It multiplies the queries
// by its keys, and the sums meet in its part of workgroup memory, from where a lane takes its own: four pieces of one row, a step. They stay
// in its registers until they are codes, which the subgroup multiplies by the values of the same keys. So subgroups wait for each other only
// for what is of a whole row: its largest score, the sum of its weights, its results. That sum goes from piece to lane, and from there in
// the tree of common/reduce.wgsl: the same in the same order, so the same bits. Where there are few workgroups two subgroups share the steps
// of one: SHARES.
//
// Stored zeros are taken off on the matrices too: (q − z)(k − w) = q k + (−z − 1) k + k + q (−w − 1) + q + z w, each of which is a product of
// bytes if −z − 1 is written as one: the bits of z turned. Sums begin at the bits of 1.5 · 2^23, so that they are floats when they are done:
// see `floats_of_small`. Of values, the sum of the map's codes less their zero is taken off times z: it is one number for a row.
//
// Operands go through workgroup memory, where compilers know how they lie: matrices that are loaded from storage are byte by byte (H100, 170
// of 416 us). Where there is no query, key or value, the last one is read again: the map's code is its zero there. Matrices have names of
// their own, and so have weights: see integer/matrix.wgsl. Divisors are constants: a division by a number of the parameters is twenty
// instructions.

const SUBGROUPS = LANES / 8u;
const GROUP = SHARES * SUBGROUPS * 32u;
// Of a share.
const OWN_STEPS = (STEPS + SHARES - 1u) / SHARES;
const TILES = (QUERIES + 15u) / 16u;
const STRIPS = (KEYS + 31u) / 32u;
// Of keys and queries, 32 codes each, the rows padded by a chunk of sixteen.
const CHUNKS = 3u;
// Of sixteen rows of 32 sums, in vectors of four, padded by two: see `Place`.
const STRIDE = 10u;
// A subgroup's part.
const STRIP = 16u * STRIDE;
// Of rows of 32 codes of a map.
const STRIDE_MAP = 3u;
// Of 32 channels of 32 values, behind the codes.
const STRIDE_V = 2u;
const FIRST_V = 16u * STRIDE_MAP;

@group(0) @binding(1) var<storage, read> q: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> k: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> v: array<vec2<u32>>;

var<workgroup> sh: array<vec4<f32>, SHARES * SUBGROUPS * STRIP>;
// Later sums of weights.
var<workgroup> sh_queries: array<vec4<f32>, 16u * CHUNKS>;
// Rows of matrices of one number: see `number`.
var<workgroup> sh_numbers: array<vec4<f32>, 16>;
// Which columns of a piece count: see `columns_that_count`.
var<workgroup> sh_counts: array<u32, STRIPS * 8u>;
var<workgroup> sh_largest: array<atomic<i32>, 16>;
// Of the codes of a row.
var<workgroup> sh_codes: array<atomic<i32>, 16>;

// Where a lane's pieces are: its row, its first piece in a step, its subgroup of a share, and its share of the steps. Which of two lanes
// has which piece changes after four rows, so that eight lanes, and four rows of sums as they are stored, are in different banks.
struct Place {
    row: u32,
    piece: u32,
    subgroup: u32,
    share: u32,
    // Where its subgroup's part of workgroup memory begins.
    strip: u32,
}

// What a lane has of a step: pieces h, h + 2, h + 4 and h + 6 of a row, h being 0 or 1.
struct Four {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
}

const ONE = 0u;
const NO_Q = 1u;
const Z_Q = 2u;
const NO_K = 3u;
const Z_K = 4u;
const NO_MAP = 5u;
// Of sums.
const BEGIN = 6u;

fn code_word(code: i32) -> u32 {
    return (u32(code) & 0xffu) * 0x01010101u;
}

// The matrix that is one number everywhere: 1, the stored zeros of a head, or the bits of these turned; or what sums begin at.
fn number(i: u32, head: u32) -> u32 {
    if i == ONE {
        return code_word(1);
    }
    if i >= BEGIN {
        return bitcast<u32>(INTEGERS);
    }
    let zero = i32(state_of((i - 1u) / 2u, head).w);
    return code_word(select(zero, ~zero, i % 2u == 1u));
}

// An index that a compiler knows to be small: it then adds what is constant as it loads.
fn small(i: u32) -> u32 {
    return i & 0xfffu;
}

// Which columns of a piece count, a bit each, and in the four bits above which there are.
const ALL = 0xffu;

fn columns_that_count(row: u32, piece: u32) -> u32 {
    let limit = limit_of(row, piece);
    let bits = vec4<u32>(1u, 2u, 4u, 8u);
    let count = select(vec4<u32>(), bits, limit == vec4<f32>(-MASKED));
    let all = count | select(vec4<u32>(), bits << vec4<u32>(4u), limit != vec4<f32>(ABSENT));
    return all.x | all.y | all.z | all.w;
}

fn limited_piece(x: vec4<f32>, counts: u32) -> vec4<f32> {
    let bits = vec4<u32>(1u, 2u, 4u, 8u);
    let masked = select(vec4<f32>(MASKED), x, (vec4<u32>(counts) & bits) != vec4<u32>());
    return select(vec4<f32>(ABSENT), masked, (vec4<u32>(counts >> 4u) & bits) != vec4<u32>());
}

// Scores of pieces, of which all columns count as a rule.
fn limited(x: Four, first: u32) -> Four {
    let counts = vec4<u32>(sh_counts[first], sh_counts[first + 2u], sh_counts[first + 4u], sh_counts[first + 6u]);
    if (counts.x & counts.y & counts.z & counts.w) == ALL {
        return x;
    }
    return Four(
        limited_piece(x.a, counts.x),
        limited_piece(x.b, counts.y),
        limited_piece(x.c, counts.z),
        limited_piece(x.d, counts.w),
    );
}

// What a lane loads of a strip's keys: a chunk of one and of another.
struct Chunks {
    a: vec4<u32>,
    b: vec4<u32>,
}

// The strip that a subgroup has in a step of its share.
fn strip_of(step: u32, place: Place) -> u32 {
    return (place.share * OWN_STEPS + step) * SUBGROUPS + place.subgroup;
}

fn load_keys(step: u32, place: Place, lane: u32, start: u32) -> Chunks {
    let key = strip_of(step, place) * 32u + lane / 2u;
    let at = start + lane % 2u;
    return Chunks(k[at + min(key, KEYS - 1u) * HEADS * 2u], k[at + min(key + 16u, KEYS - 1u) * HEADS * 2u]);
}

// Whether a subgroup has columns in a step of its share: in all but the last it has.
fn exists(step: u32, place: Place) -> bool {
    return step + 1u + (SHARES - 1u) * OWN_STEPS < STEPS || strip_of(step, place) * 32u < KEYS;
}

// A lane's scores of a step. The subgroup multiplies its queries by the keys of the step, which come through its strip, and their sums go
// back there.
fn scores(
    place: Place,
    step: u32,
    lane: u32,
    factor: f32,
    keys: Chunks,
    queries: coop_mat16x16<f32, A>,
    no_q: coop_mat16x16<f32, A>,
    one: coop_mat16x16<f32, A>,
    first: coop_mat16x16<f32, C>,
) -> Four {
    let strip = strip_of(step, place);
    let at = place.strip;
    let at_right = at + 4u;
    let at_keys = small(at + lane / 2u * CHUNKS + lane % 2u);
    let at_keys_right = at + 16u * CHUNKS;
    sh[at_keys] = bitcast<vec4<f32>>(keys.a);
    sh[at_keys + 16u * CHUNKS] = bitcast<vec4<f32>>(keys.b);
    subgroupBarrier();
    let left = coopLoad<coop_mat16x16<f32, B>>(&sh[at], CHUNKS);
    let right = coopLoad<coop_mat16x16<f32, B>>(&sh[at_keys_right], CHUNKS);
    let y = coopMultiplyAdd(queries, left, coopMultiplyAdd(no_q, left, coopMultiplyAdd(one, left, first)));
    let y_right = coopMultiplyAdd(queries, right, coopMultiplyAdd(no_q, right, coopMultiplyAdd(one, right, first)));
    subgroupBarrier();
    coopStoreT(y, &sh[at], STRIDE);
    coopStoreT(y_right, &sh[at_right], STRIDE);
    subgroupBarrier();
    var four = Four(vec4<f32>(ABSENT), vec4<f32>(ABSENT), vec4<f32>(ABSENT), vec4<f32>(ABSENT));
    if exists(step, place) {
        let mine = small(at + place.row * STRIDE + place.piece);
        four.a = scaled(sh[mine] - INTEGERS, factor);
        four.b = scaled(sh[mine + 2u] - INTEGERS, factor);
        four.c = scaled(sh[mine + 4u] - INTEGERS, factor);
        four.d = scaled(sh[mine + 6u] - INTEGERS, factor);
        four = limited(four, small(strip * 8u + place.piece));
    }
    subgroupBarrier();
    return four;
}

fn larger(most: vec4<f32>, four: Four) -> vec4<f32> {
    return max(max(most, max(four.a, four.b)), max(four.c, four.d));
}

// A number that integers are compared like, and back.
fn ordered(x: i32) -> i32 {
    return x ^ ((x >> 31u) & 0x7fffffff);
}

fn weights(place: Place, step: u32, four: Four, largest: f32) -> Four {
    var weights = Four();
    if exists(step, place) {
        weights.a = exp(four.a - largest);
        weights.b = exp(four.b - largest);
        weights.c = exp(four.c - largest);
        weights.d = exp(four.d - largest);
    }
    return weights;
}

fn plus(sum: Four, four: Four) -> Four {
    return Four(sum.a + four.a, sum.b + four.b, sum.c + four.c, sum.d + four.d);
}

// Sums of a lane, for the next share.
fn store_sums(local: u32, sum: Four) {
    let at = small(local / 32u * STRIP + local % 32u);
    sh[at] = sum.a;
    sh[at + 32u] = sum.b;
    sh[at + 64u] = sum.c;
    sh[at + 96u] = sum.d;
}

fn load_sums(local: u32) -> Four {
    let at = small((local / 32u - SUBGROUPS) * STRIP + local % 32u);
    return Four(sh[at], sh[at + 32u], sh[at + 64u], sh[at + 96u]);
}

// A number of a piece in one of the cells that a subgroup has for a row.
fn set_cell(place: Place, piece: u32, x: f32) {
    sh[place.strip + place.row * STRIDE + piece / 4u][piece % 4u] = x;
}

// The tree over subgroups that are so far apart.
fn cell(i: u32, slot: u32) -> f32 {
    return sh[((SHARES - 1u) * SUBGROUPS + i) * STRIP + slot / 8u * STRIDE + slot % 8u / 4u][slot % 4u];
}

fn sum_of_2(i: u32, apart: u32, slot: u32) -> f32 {
    return cell(i, slot) + cell(i + apart, slot);
}

fn sum_of_4(i: u32, apart: u32, slot: u32) -> f32 {
    return sum_of_2(i, 2u * apart, slot) + sum_of_2(i + apart, 2u * apart, slot);
}

fn sum_of_8(i: u32, apart: u32, slot: u32) -> f32 {
    return sum_of_4(i, 2u * apart, slot) + sum_of_4(i + apart, 2u * apart, slot);
}

fn sum_of_subgroups(slot: u32) -> f32 {
    if SUBGROUPS == 1u {
        return cell(0u, slot);
    }
    if SUBGROUPS == 2u {
        return sum_of_2(0u, 1u, slot);
    }
    if SUBGROUPS == 4u {
        return sum_of_4(0u, 1u, slot);
    }
    if SUBGROUPS == 8u {
        return sum_of_8(0u, 1u, slot);
    }
    return sum_of_8(0u, 2u, slot) + sum_of_8(1u, 2u, slot);
}

// The sum of all weights of a row: the rest of the tree.
fn total_of(row: u32) -> f32 {
    let two = sh_queries[row * CHUNKS] + sh_queries[row * CHUNKS + 1u];
    return (two.x + two.z) + (two.y + two.w);
}

fn sum_of_codes(words: vec4<u32>) -> i32 {
    let one = 0x01010101u;
    return dot4I8Packed(words.x, one) + dot4I8Packed(words.y, one) + dot4I8Packed(words.z, one) + dot4I8Packed(words.w, one);
}

// Stores a step's codes and returns their sum.
fn store_codes(place: Place, step: u32, four: Four, total: f32, state: vec4<f32>) -> i32 {
    var words = vec4<u32>(code_word(i32(state.w)));
    if exists(step, place) {
        words.x = map_codes(four.a / total, state);
        words.y = map_codes(four.b / total, state);
        words.z = map_codes(four.c / total, state);
        words.w = map_codes(four.d / total, state);
    }
    sh[place.strip + place.row * STRIDE_MAP + place.piece] = bitcast<vec4<f32>>(words);
    return sum_of_codes(words);
}

// Eight channels of four values.
struct Values {
    a: vec2<u32>,
    b: vec2<u32>,
    c: vec2<u32>,
    d: vec2<u32>,
}

fn load_value(key: u32, start: u32) -> vec2<u32> {
    return v[start + min(key, KEYS - 1u) * HEADS * 4u];
}

fn load_values(step: u32, place: Place, lane: u32, start: u32) -> Values {
    let key = strip_of(step, place) * 32u + lane / 4u * 4u;
    return Values(load_value(key, start), load_value(key + 1u, start), load_value(key + 2u, start), load_value(key + 3u, start));
}

fn stage_columns(first: u32, part: u32, block: vec4<u32>) {
    let columns = bitcast<vec4<f32>>(columns_of(block));
    sh[first][part] = columns.x;
    sh[first + 4u * STRIDE_V][part] = columns.y;
    sh[first + 8u * STRIDE_V][part] = columns.z;
    sh[first + 12u * STRIDE_V][part] = columns.w;
}

// Keys go where the map has their piece. The eight channels of a lane are four rows apart, so that those of all lanes are in different banks.
fn stage_values(place: Place, lane: u32, values: Values) {
    let fours = lane / 4u;
    let first = small(place.strip + FIRST_V + lane % 4u * STRIDE_V + fours % 2u);
    stage_columns(first, fours / 2u, vec4<u32>(values.a.x, values.b.x, values.c.x, values.d.x));
    stage_columns(first + 16u * STRIDE_V, fours / 2u, vec4<u32>(values.a.y, values.b.y, values.c.y, values.d.y));
}

// Stores the results, four channels at a time: the sums of all subgroups.
fn store_results(local: u32, first_row: u32, image: u32, head: u32, factor: f32, zeros: vec2<i32>) {
    for (var slot = local; slot < 128u && first_row + slot / 8u < QUERIES; slot += GROUP) {
        let row = slot / 8u;
        let at = row * STRIDE + slot % 2u * 4u;
        let column = slot % 8u / 2u;
        // Of a map's codes less their zero, of which there are so many.
        let codes = atomicLoad(&sh_codes[row]) - i32(SHARES * OWN_STEPS * SUBGROUPS * 32u) * zeros.x;
        var total = vec4<i32>(-codes * zeros.y);
        for (var i = 0u; i < SHARES * SUBGROUPS; i++) {
            let start = small(at + i * STRIP);
            let sums = vec4<f32>(sh[start][column], sh[start + 1u][column], sh[start + 2u][column], sh[start + 3u][column]);
            total += bitcast<vec4<i32>>(sums);
        }
        let token = image * QUERIES + first_row + row;
        write_y((token * HEADS + head) * 32u + slot % 8u * 4u, rounded4(nearest_floats(total) * factor, nothing()), 4u);
    }
}

@compute @workgroup_size(GROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    // Workgroups past the last, from folding the grid, do its work again.
    let flat = min(flat_group(workgroup, workgroups), p.rows / QUERIES * TILES - 1u);
    let first_row = flat % TILES * 16u;
    let head = flat / TILES % HEADS;
    let image = flat / (TILES * HEADS);
    let place = Place(local % 16u, (local / 16u + local / 4u) % 2u, local / 32u % SUBGROUPS, local / 32u / SUBGROUPS, local / 32u * STRIP);
    let lane = local % 32u;
    let strip = place.strip;
    // Loads before the first barrier are under way together.
    let of_map = state_of(OF_MAP, head);
    let factor = factor_of(state_of(OF_QUERIES, head), state_of(OF_KEYS, head), p.scale, nothing());
    let of_values = state_of(OF_VALUES, head);
    let factor_y = factor_of(of_map, of_values, 1.0, nothing());
    let start_k = (image * KEYS * HEADS + head) * 2u;
    let start_v = (image * KEYS * HEADS + head) * 4u + lane % 4u;
    let keys0 = load_keys(0u, place, lane, start_k);
    var keys1 = Chunks();
    var keys2 = Chunks();
    var keys3 = Chunks();
    if OWN_STEPS > 1u {
        keys1 = load_keys(1u, place, lane, start_k);
    }
    if OWN_STEPS > 2u {
        keys2 = load_keys(2u, place, lane, start_k);
    }
    if OWN_STEPS > 3u {
        keys3 = load_keys(3u, place, lane, start_k);
    }
    if local < 32u {
        let token = image * QUERIES + min(first_row + lane / 2u, QUERIES - 1u);
        sh_queries[lane / 2u * CHUNKS + lane % 2u] = bitcast<vec4<f32>>(q[(token * HEADS + head) * 2u + lane % 2u]);
    }
    if local < 16u {
        sh_numbers[local] = bitcast<vec4<f32>>(vec4<u32>(number(local / 2u, head)));
    }
    for (var piece = local; piece < STRIPS * 8u; piece += GROUP) {
        sh_counts[piece] = columns_that_count(flat / TILES * QUERIES, piece);
    }
    if local < 16u {
        atomicStore(&sh_largest[local], ordered(bitcast<i32>(MASKED)));
        atomicStore(&sh_codes[local], 0);
    }
    workgroupBarrier();

    let one_a = coopLoadT<coop_mat16x16<f32, A>>(&sh_numbers[0], 0u);
    let no_q = coopLoadT<coop_mat16x16<f32, A>>(&sh_numbers[2], 0u);
    let queries = coopLoadT<coop_mat16x16<f32, A>>(&sh_queries[0], CHUNKS);
    let one_b = coopLoad<coop_mat16x16<f32, B>>(&sh_numbers[0], 0u);
    let z_q = coopLoadT<coop_mat16x16<f32, A>>(&sh_numbers[4], 0u);
    let no_k = coopLoad<coop_mat16x16<f32, B>>(&sh_numbers[6], 0u);
    let z_k = coopLoad<coop_mat16x16<f32, B>>(&sh_numbers[8], 0u);
    var first = coopLoadT<coop_mat16x16<f32, C>>(&sh_numbers[12], 0u);
    first = coopMultiplyAdd(queries, one_b, coopMultiplyAdd(z_q, z_k, first));
    first = coopMultiplyAdd(queries, no_k, first);

    var s0 = scores(place, 0u, lane, factor, keys0, queries, no_q, one_a, first);
    var s1 = Four();
    var s2 = Four();
    var s3 = Four();
    if OWN_STEPS > 1u {
        s1 = scores(place, 1u, lane, factor, keys1, queries, no_q, one_a, first);
    }
    if OWN_STEPS > 2u {
        s2 = scores(place, 2u, lane, factor, keys2, queries, no_q, one_a, first);
    }
    if OWN_STEPS > 3u {
        s3 = scores(place, 3u, lane, factor, keys3, queries, no_q, one_a, first);
    }

    var most = larger(vec4<f32>(MASKED), s0);
    if OWN_STEPS > 1u {
        most = larger(most, s1);
    }
    if OWN_STEPS > 2u {
        most = larger(most, s2);
    }
    if OWN_STEPS > 3u {
        most = larger(most, s3);
    }
    atomicMax(&sh_largest[place.row], ordered(bitcast<i32>(max_of(most))));
    workgroupBarrier();
    let largest = bitcast<f32>(ordered(atomicLoad(&sh_largest[place.row])));

    s0 = weights(place, 0u, s0, largest);
    if OWN_STEPS > 1u {
        s1 = weights(place, 1u, s1, largest);
    }
    if OWN_STEPS > 2u {
        s2 = weights(place, 2u, s2, largest);
    }
    if OWN_STEPS > 3u {
        s3 = weights(place, 3u, s3, largest);
    }
    // The second share's steps are added to the sums of the first.
    var sum = Four();
    for (var share = 0u; share < SHARES; share++) {
        if place.share == share {
            if share > 0u {
                sum = load_sums(local);
            }
            sum = plus(sum, s0);
            if OWN_STEPS > 1u {
                sum = plus(sum, s1);
            }
            if OWN_STEPS > 2u {
                sum = plus(sum, s2);
            }
            if OWN_STEPS > 3u {
                sum = plus(sum, s3);
            }
            if share + 1u < SHARES {
                store_sums(local, sum);
            } else {
                set_cell(place, place.piece, sum_of(sum.a));
                set_cell(place, place.piece + 2u, sum_of(sum.b));
                set_cell(place, place.piece + 4u, sum_of(sum.c));
                set_cell(place, place.piece + 6u, sum_of(sum.d));
            }
        }
        workgroupBarrier();
    }
    for (var slot = local; slot < 128u; slot += GROUP) {
        sh_queries[slot / 8u * CHUNKS + slot % 8u / 4u][slot % 4u] = sum_of_subgroups(slot);
    }
    workgroupBarrier();
    let total = total_of(place.row);

    var values = load_values(0u, place, lane, start_v);
    let no_map = coopLoadT<coop_mat16x16<f32, A>>(&sh_numbers[10], 0u);
    let at_v = strip + FIRST_V;
    let at_v_right = at_v + 16u * STRIDE_V;
    var y = coop_mat16x16<f32, C>();
    var y_right = coop_mat16x16<f32, C>();
    var codes = 0;
    for (var step = 0u; step < OWN_STEPS; step++) {
        stage_values(place, lane, values);
        var four = s0;
        if step == 1u {
            four = s1;
        }
        if step == 2u {
            four = s2;
        }
        if step == 3u {
            four = s3;
        }
        codes += store_codes(place, step, four, total, of_map);
        subgroupBarrier();
        values = load_values(step + 1u, place, lane, start_v);
        let left = coopLoad<coop_mat16x16<f32, B>>(&sh[at_v], STRIDE_V);
        let right = coopLoad<coop_mat16x16<f32, B>>(&sh[at_v_right], STRIDE_V);
        let map = coopLoadT<coop_mat16x16<f32, A>>(&sh[strip], STRIDE_MAP);
        y = coopMultiplyAdd(map, left, y);
        y_right = coopMultiplyAdd(map, right, y_right);
        y = coopMultiplyAdd(no_map, left, y);
        y_right = coopMultiplyAdd(no_map, right, y_right);
        y = coopMultiplyAdd(one_a, left, y);
        y_right = coopMultiplyAdd(one_a, right, y_right);
        subgroupBarrier();
    }
    atomicAdd(&sh_codes[place.row], codes);
    let strip_right = strip + 4u;
    coopStoreT(y, &sh[strip], STRIDE);
    coopStoreT(y_right, &sh[strip_right], STRIDE);
    workgroupBarrier();
    let zeros = vec2<i32>(i32(of_map.w), i32(of_values.w));
    store_results(local, first_row, image, head, factor_y, zeros);
}
