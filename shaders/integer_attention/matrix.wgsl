#import common/index.wgsl
#import common/quantized.wgsl

// y = codes(softmax(q kᵀ)) v for each head of 32 channels, on cooperative matrices of bytes: what is called coop_mat16x16<f32, ..> here
// are 16 x 32 and 32 x 16 codes and 16 x 16 i32 (gpu/byte_matrices.rs).
//
// A workgroup takes sixteen queries of a head. In each of up to four steps a subgroup (32 lanes) has PIECES pieces of four columns of
// their rows, as so many lanes of a softmax by itself would: SUBGROUPS · PIECES are the LANES of a row there. It multiplies the queries by
// its keys, and the sums meet in its strip of workgroup memory, from where a lane takes its own: PIECES / 2 pieces of one row, a step.
// They stay in its registers until they are codes. Sums over a row go from piece to lane, and from there in the tree of
// common/reduce.wgsl: the same in the same order, so the same bits. The codes of all rows lie in workgroup memory where the strips were,
// and the subgroups share the keys of the values they are multiplied by.
//
// Stored zeros are taken off on the matrices too: (q − z)(k − w) = q k + (−z − 1) k + k + q (−w − 1) + q + z w, each of which is a product of
// bytes if −z − 1 is written as one: the bits of z turned.
//
// Operands go through workgroup memory, where compilers know how they lie: matrices that are loaded from storage are byte by byte (H100, 170
// of 416 us). Where there is no query or key, the last one is read again. Matrices have names of their own, and so have weights: see
// integer/matrix.wgsl.

const SUBGROUPS = LANES / PIECES;
const GROUP = SUBGROUPS * 32u;
// Keys of a step of a subgroup, 32 codes each, the rows padded by a chunk of sixteen.
const CHUNKS = 3u;
// Of sixteen rows of sums, in vectors of four, the rows padded by one.
const STRIDE = PIECES + 1u;
const STRIP = 16u * STRIDE;
// Of the rows of codes, sixteen a vector, and padded by one or two to an odd number; in blocks of 32 keys.
const BLOCKS_MAP = (KEYS + 31u) / 32u;
const STRIDE_MAP = BLOCKS_MAP * 2u + 1u;
// Of 32 channels of 32 values, behind the codes. Padding would leave no room for two workgroups on a processor of an H100.
const STRIDE_V = 2u;
const STRIP_V = 32u * STRIDE_V;
// Of sums of results.
const STRIDE_Y = 5u;
const STRIP_Y = 16u * STRIDE_Y;

@group(0) @binding(1) var<storage, read> q: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> k: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> v: array<vec2<u32>>;

var<workgroup> sh: array<vec4<f32>, STAGED>;
var<workgroup> sh_queries: array<vec4<f32>, 16u * CHUNKS>;
// Rows of matrices of one number: see `number`.
var<workgroup> sh_numbers: array<vec4<f32>, 18>;

// What a lane has of a step: pieces h, h + 2, h + 4 and h + 6 of a row, h being 0 or 1.
struct Four {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
}

// Where a lane's pieces are: its row, its first piece in a step, and its subgroup.
struct Place {
    row: u32,
    piece: u32,
    subgroup: u32,
}

const ONE = 0u;
const NO_Q = 1u;
const Z_Q = 2u;
const NO_K = 3u;
const Z_K = 4u;
const NO_MAP = 5u;
const Z_MAP = 6u;
const NO_V = 7u;
const Z_V = 8u;

fn code_word(code: i32) -> u32 {
    return (u32(code) & 0xffu) * 0x01010101u;
}

// The matrix that is one number everywhere: 1, the stored zeros of a head, or the bits of these turned.
fn number(i: u32, head: u32) -> u32 {
    if i == ONE {
        return code_word(1);
    }
    let zero = i32(state_of((i - 1u) / 2u, head).w);
    return code_word(select(zero, ~zero, i % 2u == 1u));
}

fn score(place: Place, strip: u32, piece: u32, factor: f32) -> vec4<f32> {
    let sums = bitcast<vec4<i32>>(sh[place.subgroup * STRIP + place.row * STRIDE + piece]);
    return min(scores_of(sums, factor), sh[LIMITS + strip * PIECES + piece]);
}

// What a lane loads of a strip's keys: a chunk of one, and with eight pieces of a second one.
struct Chunks {
    a: vec4<u32>,
    b: vec4<u32>,
}

fn load_keys(step: u32, place: Place, lane: u32, start: u32) -> Chunks {
    let key = (step * SUBGROUPS + place.subgroup) * PIECES * 4u + lane / 2u;
    let last = p.keys - 1u;
    var chunks = Chunks();
    chunks.a = k[start + min(key, last) * p.heads * 2u + lane % 2u];
    if PIECES > 4u {
        chunks.b = k[start + min(key + 16u, last) * p.heads * 2u + lane % 2u];
    }
    return chunks;
}

fn stage_keys(place: Place, lane: u32, chunks: Chunks) {
    let at = place.subgroup * STRIP + lane / 2u * CHUNKS + lane % 2u;
    sh[at] = bitcast<vec4<f32>>(chunks.a);
    if PIECES > 4u {
        sh[at + 16u * CHUNKS] = bitcast<vec4<f32>>(chunks.b);
    }
}

// Whether a strip has columns.
fn exists(strip: u32) -> bool {
    return strip * PIECES < p.pieces;
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
    let at = place.subgroup * STRIP;
    let at_right = at + 4u;
    let at_keys_right = at + 16u * CHUNKS;
    stage_keys(place, lane, keys);
    subgroupBarrier();
    let left = coopLoad<coop_mat16x16<f32, B>>(&sh[at], CHUNKS);
    let y = coopMultiplyAdd(queries, left, coopMultiplyAdd(no_q, left, coopMultiplyAdd(one, left, first)));
    var y_right = coop_mat16x16<f32, C>();
    if PIECES > 4u {
        let right = coopLoad<coop_mat16x16<f32, B>>(&sh[at_keys_right], CHUNKS);
        y_right = coopMultiplyAdd(queries, right, coopMultiplyAdd(no_q, right, coopMultiplyAdd(one, right, first)));
    }
    subgroupBarrier();
    coopStoreT(y, &sh[at], STRIDE);
    if PIECES > 4u {
        coopStoreT(y_right, &sh[at_right], STRIDE);
    }
    subgroupBarrier();
    let strip = step * SUBGROUPS + place.subgroup;
    var four = Four(vec4<f32>(ABSENT), vec4<f32>(ABSENT), vec4<f32>(ABSENT), vec4<f32>(ABSENT));
    if exists(strip) {
        four.a = score(place, strip, place.piece, factor);
        four.b = score(place, strip, place.piece + 2u, factor);
        if PIECES > 4u {
            four.c = score(place, strip, place.piece + 4u, factor);
            four.d = score(place, strip, place.piece + 6u, factor);
        }
    }
    subgroupBarrier();
    return four;
}

fn larger(most: vec4<f32>, four: Four) -> vec4<f32> {
    let two = max(four.a, four.b);
    if PIECES > 4u {
        return max(max(most, two), max(four.c, four.d));
    }
    return max(most, two);
}

fn weights(place: Place, step: u32, four: Four, largest: f32) -> Four {
    var weights = Four();
    if exists(step * SUBGROUPS + place.subgroup) {
        weights.a = exp(four.a - largest);
        weights.b = exp(four.b - largest);
        if PIECES > 4u {
            weights.c = exp(four.c - largest);
            weights.d = exp(four.d - largest);
        }
    }
    return weights;
}

fn plus(sum: Four, four: Four) -> Four {
    return Four(sum.a + four.a, sum.b + four.b, sum.c + four.c, sum.d + four.d);
}

fn store_code(place: Place, piece: u32, y: vec4<f32>, state: vec4<f32>) {
    sh[place.row * STRIDE_MAP + piece / 4u][piece % 4u] = bitcast<f32>(map_codes(y, state));
}

fn store_codes(place: Place, step: u32, four: Four, total: f32, state: vec4<f32>) {
    let strip = step * SUBGROUPS + place.subgroup;
    let piece = strip * PIECES + place.piece;
    if exists(strip) {
        store_code(place, piece, four.a / total, state);
        store_code(place, piece + 2u, four.b / total, state);
        if PIECES > 4u {
            store_code(place, piece + 4u, four.c / total, state);
            store_code(place, piece + 6u, four.d / total, state);
        }
    }
}

// A number of a row in one of its cells.
fn set_cell(cell: u32, row: u32, x: f32) {
    sh[cell * 4u + row / 4u][row % 4u] = x;
}

// Half of the tree of common/reduce.wgsl, and a quarter: two steps of it at once.
fn add_halves(i: u32, half: u32) {
    sh[i] += sh[i + half];
}

fn add_quarters(i: u32, quarter: u32) {
    sh[i] = (sh[i] + sh[i + 2u * quarter]) + (sh[i + quarter] + sh[i + 3u * quarter]);
}

// The sum over the cells of a row, by that tree.
fn sum_of_cells(local: u32, row: u32) -> f32 {
    workgroupBarrier();
    // Vectors of four rows; of cells as many as a power of four.
    var vectors = LANES * 4u;
    if IS_ODD {
        vectors /= 2u;
        if local < vectors {
            add_halves(local, vectors);
        }
        workgroupBarrier();
    }
    for (; vectors > 4u; vectors /= 4u) {
        if local < vectors / 4u {
            add_quarters(local, vectors / 4u);
        }
        workgroupBarrier();
    }
    let sum = sh[row / 4u][row % 4u];
    workgroupBarrier();
    return sum;
}

// The largest of the two cells of each subgroup.
fn largest_of_cells(row: u32) -> f32 {
    workgroupBarrier();
    var largest = sh[row / 4u][row % 4u];
    for (var cell = 1u; cell < 2u * SUBGROUPS; cell++) {
        largest = max(largest, sh[cell * 4u + row / 4u][row % 4u]);
    }
    workgroupBarrier();
    return largest;
}

// Eight channels of four values.
struct Values {
    a: vec2<u32>,
    b: vec2<u32>,
    c: vec2<u32>,
    d: vec2<u32>,
}

// Those of a key, from `at` in pairs of words, or zeros that stand for nothing behind the last key.
fn load_value(key: u32, image: u32, at: u32) -> vec2<u32> {
    let none = vec2<u32>(bitcast<u32>(sh_numbers[Z_V * 2u].x));
    let words = v[(image * p.keys + min(key, p.keys - 1u)) * p.heads * 4u + at];
    return select(none, words, key < p.keys);
}

fn load_values(key: u32, image: u32, at: u32) -> Values {
    return Values(
        load_value(key, image, at),
        load_value(key + 1u, image, at),
        load_value(key + 2u, image, at),
        load_value(key + 3u, image, at),
    );
}

fn stage_columns(first: u32, fours: u32, block: vec4<u32>) {
    let columns = bitcast<vec4<f32>>(columns_of(block));
    sh[first][fours] = columns.x;
    sh[first + STRIDE_V][fours] = columns.y;
    sh[first + 2u * STRIDE_V][fours] = columns.z;
    sh[first + 3u * STRIDE_V][fours] = columns.w;
}

fn stage_values(at: u32, channel: u32, fours: u32, values: Values) {
    let first = at + channel * STRIDE_V + fours / 4u;
    stage_columns(first, fours % 4u, vec4<u32>(values.a.x, values.b.x, values.c.x, values.d.x));
    stage_columns(first + 4u * STRIDE_V, fours % 4u, vec4<u32>(values.a.y, values.b.y, values.c.y, values.d.y));
}

// Stores the results, four channels at a time: the sums of all subgroups that have the same sixteen channels.
fn store_results(local: u32, first_row: u32, image: u32, head: u32, factor: f32) {
    for (var slot = local; slot < 128u && first_row + slot / 8u < p.queries; slot += GROUP) {
        let row = slot / 8u;
        let at = slot % 8u / 4u * STRIP_Y + row * STRIDE_Y + slot % 4u;
        var total = vec4<i32>();
        for (var i = 0u; i < SUBGROUPS; i++) {
            total += bitcast<vec4<i32>>(sh[at + i * 2u * STRIP_Y]);
        }
        let token = image * p.queries + first_row + row;
        write_y((token * p.heads + head) * 32u + slot % 8u * 4u, rounded4(nearest_floats(total) * factor, nothing()), 4u);
    }
}

@compute @workgroup_size(GROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let tiles = (p.queries + 15u) / 16u;
    let maps = p.rows / p.queries;
    // Workgroups past the last, from folding the grid, do its work again.
    let flat = min(flat_group(workgroup, workgroups), tiles * maps - 1u);
    let first_row = flat % tiles * 16u;
    let head = flat / tiles % p.heads;
    let image = flat / (tiles * p.heads);
    let subgroup = local / 32u;
    let place = Place(local % 16u, local % 32u / 16u, subgroup);
    let first_lane = subgroup * PIECES + place.piece;

    let lane = local % 32u;
    // Loads before the first barrier are under way together.
    let of_map = state_of(OF_MAP, head);
    let factor = factor_of(state_of(OF_QUERIES, head), state_of(OF_KEYS, head), p.scale, nothing());
    let factor_y = factor_of(of_map, state_of(OF_VALUES, head), 1.0, nothing());
    let start_k = image * p.keys * p.heads * 2u + head * 2u;
    let keys0 = load_keys(0u, place, lane, start_k);
    var keys1 = Chunks();
    var keys2 = Chunks();
    var keys3 = Chunks();
    if STEPS > 1u {
        keys1 = load_keys(1u, place, lane, start_k);
    }
    if STEPS > 2u {
        keys2 = load_keys(2u, place, lane, start_k);
    }
    if STEPS > 3u {
        keys3 = load_keys(3u, place, lane, start_k);
    }
    if local < 32u {
        let token = image * p.queries + min(first_row + lane / 2u, p.queries - 1u);
        sh_queries[lane / 2u * CHUNKS + lane % 2u] = bitcast<vec4<f32>>(q[(token * p.heads + head) * 2u + lane % 2u]);
    }
    if local < 18u {
        sh_numbers[local] = bitcast<vec4<f32>>(vec4<u32>(number(local / 2u, head)));
    }
    for (var piece = local; piece < p.pieces + PIECES; piece += GROUP) {
        sh[LIMITS + piece] = limit_of(flat / tiles * p.queries, piece);
    }
    workgroupBarrier();

    let one_a = coopLoadT<coop_mat16x16<f32, A>>(&sh_numbers[0], 0u);
    let no_q = coopLoadT<coop_mat16x16<f32, A>>(&sh_numbers[2], 0u);
    let queries = coopLoadT<coop_mat16x16<f32, A>>(&sh_queries[0], CHUNKS);
    let one_b = coopLoad<coop_mat16x16<f32, B>>(&sh_numbers[0], 0u);
    let z_q = coopLoadT<coop_mat16x16<f32, A>>(&sh_numbers[4], 0u);
    let no_k = coopLoad<coop_mat16x16<f32, B>>(&sh_numbers[6], 0u);
    let z_k = coopLoad<coop_mat16x16<f32, B>>(&sh_numbers[8], 0u);
    var first = coopMultiplyAdd(queries, one_b, coopMultiplyAdd(z_q, z_k, coop_mat16x16<f32, C>()));
    first = coopMultiplyAdd(queries, no_k, first);

    var s0 = scores(place, 0u, lane, factor, keys0, queries, no_q, one_a, first);
    var s1 = Four();
    var s2 = Four();
    var s3 = Four();
    if STEPS > 1u {
        s1 = scores(place, 1u, lane, factor, keys1, queries, no_q, one_a, first);
    }
    if STEPS > 2u {
        s2 = scores(place, 2u, lane, factor, keys2, queries, no_q, one_a, first);
    }
    if STEPS > 3u {
        s3 = scores(place, 3u, lane, factor, keys3, queries, no_q, one_a, first);
    }
    // Cells of all subgroups are to lie where the strips are.
    workgroupBarrier();
    // The first values are under way while there is a softmax.
    let fours = lane / 4u;
    let pair = head * 4u + lane % 4u;
    var values = load_values(subgroup * 32u + fours * 4u, image, pair);

    var most = larger(vec4<f32>(MASKED), s0);
    if STEPS > 1u {
        most = larger(most, s1);
    }
    if STEPS > 2u {
        most = larger(most, s2);
    }
    if STEPS > 3u {
        most = larger(most, s3);
    }
    set_cell(subgroup * 2u + place.piece, place.row, max_of(most));
    let largest = largest_of_cells(place.row);

    s0 = weights(place, 0u, s0, largest);
    var sum = s0;
    if STEPS > 1u {
        s1 = weights(place, 1u, s1, largest);
        sum = plus(sum, s1);
    }
    if STEPS > 2u {
        s2 = weights(place, 2u, s2, largest);
        sum = plus(sum, s2);
    }
    if STEPS > 3u {
        s3 = weights(place, 3u, s3, largest);
        sum = plus(sum, s3);
    }
    set_cell(first_lane, place.row, sum_of(sum.a));
    set_cell(first_lane + 2u, place.row, sum_of(sum.b));
    if PIECES > 4u {
        set_cell(first_lane + 4u, place.row, sum_of(sum.c));
        set_cell(first_lane + 6u, place.row, sum_of(sum.d));
    }
    let total = sum_of_cells(local, place.row);

    store_codes(place, 0u, s0, total, of_map);
    if STEPS > 1u {
        store_codes(place, 1u, s1, total, of_map);
    }
    if STEPS > 2u {
        store_codes(place, 2u, s2, total, of_map);
    }
    if STEPS > 3u {
        store_codes(place, 3u, s3, total, of_map);
    }

    let no_map = coopLoadT<coop_mat16x16<f32, A>>(&sh_numbers[10], 0u);
    let z_map = coopLoadT<coop_mat16x16<f32, A>>(&sh_numbers[12], 0u);
    let no_v = coopLoad<coop_mat16x16<f32, B>>(&sh_numbers[14], 0u);
    let z_v = coopLoad<coop_mat16x16<f32, B>>(&sh_numbers[16], 0u);
    let at_v = FIRST_V + subgroup * STRIP_V;
    let at_v_right = at_v + 16u * STRIDE_V;
    var y = coop_mat16x16<f32, C>();
    var y_right = coop_mat16x16<f32, C>();
    // The map is of all subgroups.
    workgroupBarrier();
    for (var first_block = 0u; first_block < BLOCKS_MAP; first_block += SUBGROUPS) {
        let block = first_block + subgroup;
        stage_values(at_v, lane % 4u * 8u, fours, values);
        subgroupBarrier();
        values = load_values((block + SUBGROUPS) * 32u + fours * 4u, image, pair);
        // Behind the last block all values are their zero, so that no map counts.
        let at_map = min(block, BLOCKS_MAP - 1u) * 2u;
        let map = coopLoadT<coop_mat16x16<f32, A>>(&sh[at_map], STRIDE_MAP);
        let left = coopLoad<coop_mat16x16<f32, B>>(&sh[at_v], STRIDE_V);
        let right = coopLoad<coop_mat16x16<f32, B>>(&sh[at_v_right], STRIDE_V);
        y = coopMultiplyAdd(map, left, y);
        y_right = coopMultiplyAdd(map, right, y_right);
        y = coopMultiplyAdd(no_map, left, y);
        y_right = coopMultiplyAdd(no_map, right, y_right);
        y = coopMultiplyAdd(one_a, left, y);
        y_right = coopMultiplyAdd(one_a, right, y_right);
        y = coopMultiplyAdd(map, no_v, y);
        y_right = coopMultiplyAdd(map, no_v, y_right);
        y = coopMultiplyAdd(map, one_b, y);
        y_right = coopMultiplyAdd(map, one_b, y_right);
        y = coopMultiplyAdd(z_map, z_v, y);
        y_right = coopMultiplyAdd(z_map, z_v, y_right);
        subgroupBarrier();
    }
    // Results of all subgroups are to lie where the map is.
    workgroupBarrier();
    let at_y = 2u * subgroup * STRIP_Y;
    let at_y_right = at_y + STRIP_Y;
    coopStoreT(y, &sh[at_y], STRIDE_Y);
    coopStoreT(y_right, &sh[at_y_right], STRIDE_Y);
    workgroupBarrier();
    store_results(local, first_row, image, head, factor_y);
}
