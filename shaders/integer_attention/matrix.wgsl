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
// The last tile of queries and the last block of keys are moved up so that they are whole: rows that two tiles have in common are computed
// twice, and columns are read where they are then. Matrices have names of their own, and so have weights: see integer/matrix.wgsl.

const SUBGROUPS = LANES / PIECES;
const GROUP = SUBGROUPS * 32u;
// Blocks of sixteen keys in a step of a subgroup, and those that there are.
const BLOCKS = PIECES / 4u;
// Of sixteen rows of sums, in vectors of four, the rows padded by one.
const STRIDE = PIECES + 1u;
const STRIP = 16u * STRIDE;
// What the scores of every column count as at most, behind the strips.
const LIMITS = SUBGROUPS * STRIP;
// Of the rows of codes, sixteen a vector, and padded by one or two to an odd number; in blocks of 32 keys.
const BLOCKS_MAP = (KEYS + 31u) / 32u;
const STRIDE_MAP = BLOCKS_MAP * 2u + 1u;
// Of 16 channels of 32 values, behind the codes.
const STRIDE_V = 3u;
const STRIP_V = 16u * STRIDE_V;
const FIRST_V = 16u * STRIDE_MAP;
// Of sums of results.
const STRIDE_Y = 5u;
const STRIP_Y = 16u * STRIDE_Y;
const STAGED = max(max(LIMITS + LANES * STEPS, FIRST_V + SUBGROUPS * STRIP_V), max(SUBGROUPS * STRIP_Y, LANES * 4u));

@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> v: array<u32>;

var<workgroup> sh: array<vec4<f32>, STAGED>;
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

// The first key of a block, moved up where the block would not be whole.
fn first_key(block: u32) -> u32 {
    return min(block * 16u, p.keys - 16u);
}

// Sums of a row in a strip by its column.
fn sum_at(start: u32, column: u32) -> i32 {
    return bitcast<i32>(sh[start + column / 4u][column % 4u]);
}

// The sums of a piece, which in a block that was moved are further behind.
fn sums_of(place: Place, block: u32, piece: u32) -> vec4<i32> {
    let start = place.subgroup * STRIP + place.row * STRIDE + piece / 4u * 4u;
    let moved = block * 16u - first_key(block);
    if moved == 0u {
        return bitcast<vec4<i32>>(sh[start + piece % 4u]);
    }
    let column = min(vec4<u32>(piece % 4u * 4u + moved) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(15u));
    return vec4<i32>(sum_at(start, column.x), sum_at(start, column.y), sum_at(start, column.z), sum_at(start, column.w));
}

fn score(place: Place, strip: u32, piece: u32, factor: f32) -> vec4<f32> {
    let sums = sums_of(place, strip * BLOCKS + piece / 4u, piece);
    return min(scores_of(sums, factor), sh[LIMITS + strip * PIECES + piece]);
}

// Whether a strip has columns.
fn exists(strip: u32) -> bool {
    return strip * PIECES < p.pieces;
}

// A lane's scores of a step.
fn scores(place: Place, step: u32, factor: f32) -> Four {
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

// Leaves the sum over all cells of every row in the first, by the tree of common/reduce.wgsl.
fn add_cells(local: u32) {
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        for (var i = local; i < half * 4u; i += GROUP) {
            sh[i] += sh[i + half * 4u];
        }
        workgroupBarrier();
    }
}

// Leaves the largest over two cells of each subgroup in the first.
fn find_largest(local: u32) {
    workgroupBarrier();
    for (var half = SUBGROUPS; half > 0u; half /= 2u) {
        for (var i = local; i < half * 4u; i += GROUP) {
            sh[i] = max(sh[i], sh[i + half * 4u]);
        }
        workgroupBarrier();
    }
}

// Four values of four channels of a head, from the word `at`, or zeros that stand for nothing behind the last key.
fn load_values(key: u32, image: u32, at: u32) -> vec4<u32> {
    let stride = p.heads * 8u;
    let last = p.keys - 1u;
    let start = image * p.keys;
    let none = vec4<u32>(bitcast<u32>(sh_numbers[Z_V * 2u].x));
    let words = vec4<u32>(
        v[(start + min(key, last)) * stride + at],
        v[(start + min(key + 1u, last)) * stride + at],
        v[(start + min(key + 2u, last)) * stride + at],
        v[(start + min(key + 3u, last)) * stride + at],
    );
    return select(none, words, vec4<u32>(key) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(p.keys));
}

fn stage_values(at: u32, channel: u32, fours: u32, values: vec4<u32>) {
    let columns = bitcast<vec4<f32>>(columns_of(values));
    let first = at + channel * STRIDE_V + fours / 4u;
    sh[first][fours % 4u] = columns.x;
    sh[first + STRIDE_V][fours % 4u] = columns.y;
    sh[first + 2u * STRIDE_V][fours % 4u] = columns.z;
    sh[first + 3u * STRIDE_V][fours % 4u] = columns.w;
}

// Stores the results, four channels at a time: the sums of all subgroups that have the same sixteen channels.
fn store_results(local: u32, first_row: u32, image: u32, head: u32) {
    let map = state_of(OF_MAP, head);
    let values = state_of(OF_VALUES, head);
    let factor = factor_of(map, values, 1.0, nothing());
    for (var slot = local; slot < 128u; slot += GROUP) {
        let row = slot / 8u;
        let at = slot % 8u / 4u * STRIP_Y + row * STRIDE_Y + slot % 4u;
        var total = vec4<i32>();
        for (var i = 0u; i < SUBGROUPS / 2u; i++) {
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
    let first_row = min(flat % tiles * 16u, p.queries - 16u);
    let head = flat / tiles % p.heads;
    let image = flat / (tiles * p.heads);
    let subgroup = local / 32u;
    let place = Place(local % 16u, local % 32u / 16u, subgroup);
    let first_lane = subgroup * PIECES + place.piece;

    if local < 18u {
        sh_numbers[local] = bitcast<vec4<f32>>(vec4<u32>(number(local / 2u, head)));
    }
    for (var piece = local; piece < LANES * STEPS; piece += GROUP) {
        sh[LIMITS + piece] = limit_of(flat / tiles * p.queries, piece);
    }
    workgroupBarrier();

    let stride = p.heads * 2u;
    let at_q = (image * p.queries + first_row) * stride + head * 2u;
    let start_k = image * p.keys * stride + head * 2u;
    let at_strip = subgroup * STRIP;
    let at_strip_right = at_strip + 4u;
    let one_a = coopLoadT<coop_mat16x16<f32, A>>(&sh_numbers[0], 0u);
    let no_q = coopLoadT<coop_mat16x16<f32, A>>(&sh_numbers[2], 0u);
    let queries = coopLoadT<coop_mat16x16<f32, A>>(&q[at_q], stride);
    let one_b = coopLoad<coop_mat16x16<f32, B>>(&sh_numbers[0], 0u);
    let z_q = coopLoadT<coop_mat16x16<f32, A>>(&sh_numbers[4], 0u);
    let no_k = coopLoad<coop_mat16x16<f32, B>>(&sh_numbers[6], 0u);
    let z_k = coopLoad<coop_mat16x16<f32, B>>(&sh_numbers[8], 0u);
    var first = coopMultiplyAdd(queries, one_b, coopMultiplyAdd(z_q, z_k, coop_mat16x16<f32, C>()));
    first = coopMultiplyAdd(queries, no_k, first);

    let factor = factor_of(state_of(OF_QUERIES, head), state_of(OF_KEYS, head), p.scale, nothing());
    var s0 = Four();
    var s1 = Four();
    var s2 = Four();
    var s3 = Four();
    let k0 = coopLoad<coop_mat16x16<f32, B>>(&k[start_k + first_key(subgroup * BLOCKS) * stride], stride);
    let y0 = coopMultiplyAdd(queries, k0, coopMultiplyAdd(no_q, k0, coopMultiplyAdd(one_a, k0, first)));
    coopStoreT(y0, &sh[at_strip], STRIDE);
    if PIECES > 4u {
        let right0 = coopLoad<coop_mat16x16<f32, B>>(&k[start_k + first_key(subgroup * BLOCKS + 1u) * stride], stride);
        let y_right0 = coopMultiplyAdd(queries, right0, coopMultiplyAdd(no_q, right0, coopMultiplyAdd(one_a, right0, first)));
        coopStoreT(y_right0, &sh[at_strip_right], STRIDE);
    }
    workgroupBarrier();
    s0 = scores(place, 0u, factor);
    workgroupBarrier();
    if STEPS > 1u {
        let k1 = coopLoad<coop_mat16x16<f32, B>>(&k[start_k + first_key((SUBGROUPS + subgroup) * BLOCKS) * stride], stride);
        let y1 = coopMultiplyAdd(queries, k1, coopMultiplyAdd(no_q, k1, coopMultiplyAdd(one_a, k1, first)));
        coopStoreT(y1, &sh[at_strip], STRIDE);
        if PIECES > 4u {
            let right1 = coopLoad<coop_mat16x16<f32, B>>(&k[start_k + first_key((SUBGROUPS + subgroup) * BLOCKS + 1u) * stride], stride);
            let y_right1 = coopMultiplyAdd(queries, right1, coopMultiplyAdd(no_q, right1, coopMultiplyAdd(one_a, right1, first)));
            coopStoreT(y_right1, &sh[at_strip_right], STRIDE);
        }
        workgroupBarrier();
        s1 = scores(place, 1u, factor);
        workgroupBarrier();
    }
    if STEPS > 2u {
        let k2 = coopLoad<coop_mat16x16<f32, B>>(&k[start_k + first_key((2u * SUBGROUPS + subgroup) * BLOCKS) * stride], stride);
        let y2 = coopMultiplyAdd(queries, k2, coopMultiplyAdd(no_q, k2, coopMultiplyAdd(one_a, k2, first)));
        coopStoreT(y2, &sh[at_strip], STRIDE);
        if PIECES > 4u {
            let right2 = coopLoad<coop_mat16x16<f32, B>>(&k[start_k + first_key((2u * SUBGROUPS + subgroup) * BLOCKS + 1u) * stride], stride);
            let y_right2 = coopMultiplyAdd(queries, right2, coopMultiplyAdd(no_q, right2, coopMultiplyAdd(one_a, right2, first)));
            coopStoreT(y_right2, &sh[at_strip_right], STRIDE);
        }
        workgroupBarrier();
        s2 = scores(place, 2u, factor);
        workgroupBarrier();
    }
    if STEPS > 3u {
        let k3 = coopLoad<coop_mat16x16<f32, B>>(&k[start_k + first_key((3u * SUBGROUPS + subgroup) * BLOCKS) * stride], stride);
        let y3 = coopMultiplyAdd(queries, k3, coopMultiplyAdd(no_q, k3, coopMultiplyAdd(one_a, k3, first)));
        coopStoreT(y3, &sh[at_strip], STRIDE);
        if PIECES > 4u {
            let right3 = coopLoad<coop_mat16x16<f32, B>>(&k[start_k + first_key((3u * SUBGROUPS + subgroup) * BLOCKS + 1u) * stride], stride);
            let y_right3 = coopMultiplyAdd(queries, right3, coopMultiplyAdd(no_q, right3, coopMultiplyAdd(one_a, right3, first)));
            coopStoreT(y_right3, &sh[at_strip_right], STRIDE);
        }
        workgroupBarrier();
        s3 = scores(place, 3u, factor);
        workgroupBarrier();
    }
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
    find_largest(local);
    let largest = sh[place.row / 4u][place.row % 4u];
    workgroupBarrier();

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
    add_cells(local);
    let total = sh[place.row / 4u][place.row % 4u];
    workgroupBarrier();

    let of_map = state_of(OF_MAP, head);
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

    // Two subgroups have the same keys, each sixteen of the channels.
    let no_map = coopLoadT<coop_mat16x16<f32, A>>(&sh_numbers[10], 0u);
    let z_map = coopLoadT<coop_mat16x16<f32, A>>(&sh_numbers[12], 0u);
    let no_v = coopLoad<coop_mat16x16<f32, B>>(&sh_numbers[14], 0u);
    let z_v = coopLoad<coop_mat16x16<f32, B>>(&sh_numbers[16], 0u);
    let at_v = FIRST_V + subgroup * STRIP_V;
    let fours = local % 32u / 4u;
    let word = head * 8u + subgroup % 2u * 4u + local % 4u;
    var y = coop_mat16x16<f32, C>();
    var values = load_values(subgroup / 2u * 32u + fours * 4u, image, word);
    for (var first_block = 0u; first_block < BLOCKS_MAP; first_block += SUBGROUPS / 2u) {
        let block = first_block + subgroup / 2u;
        stage_values(at_v, local % 4u * 4u, fours, values);
        workgroupBarrier();
        values = load_values((block + SUBGROUPS / 2u) * 32u + fours * 4u, image, word);
        // Behind the last block all values are their zero, so that no map counts.
        let at_map = min(block, BLOCKS_MAP - 1u) * 2u;
        let map = coopLoadT<coop_mat16x16<f32, A>>(&sh[at_map], STRIDE_MAP);
        let tokens = coopLoad<coop_mat16x16<f32, B>>(&sh[at_v], STRIDE_V);
        y = coopMultiplyAdd(map, tokens, y);
        y = coopMultiplyAdd(no_map, tokens, y);
        y = coopMultiplyAdd(one_a, tokens, y);
        y = coopMultiplyAdd(map, no_v, y);
        y = coopMultiplyAdd(map, one_b, y);
        y = coopMultiplyAdd(z_map, z_v, y);
        workgroupBarrier();
    }
    let at_y = subgroup * STRIP_Y;
    coopStoreT(y, &sh[at_y], STRIDE_Y);
    workgroupBarrier();
    store_results(local, first_row, image, head);
}
