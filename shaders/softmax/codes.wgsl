#import common/index.wgsl
#import common/quantized.wgsl
#import common/reduce.wgsl

// The codes of a softmax, and the softmax itself where `keep` stores it. A workgroup takes ROWS rows, a multiple of four, so that its
// codes are whole words whatever the length of a row is: first each row's largest score and sum, by LANES invocations a row as in
// softmax.wgsl, then all words in order. State number (row / rows_of_state) % states is that of a row.

struct Params {
    rows: u32,
    pieces: u32,
    rows_of_mask: u32,
    columns: u32,
    rows_of_state: u32,
    states: u32,
    low: f32,
    high: f32,
    offset: f32,
}

// Four neighbours of the softmax, 1 / alpha and Z for each.
struct Piece {
    y: vec4<f32>,
    inverse: vec4<f32>,
    zero: vec4<f32>,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read> state: array<vec4<f32>>;
@group(0) @binding(AT_CODES) var<storage, read_write> codes: array<u32>;

const AT_ONCE = GROUP / LANES;
const ROWS = max(AT_ONCE, 4u);

var<workgroup> sh_largest: array<f32, ROWS>;
var<workgroup> sh_total: array<f32, ROWS>;

fn state_of_row(row: u32) -> vec4<f32> {
    return state[row / p.rows_of_state % p.states];
}

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let first = flat_group(group, groups) * ROWS;
    let lane = local % LANES;
    for (var turn = 0u; turn < ROWS; turn += AT_ONCE) {
        let place = turn + local / LANES;
        let row = first + place;
        // A row past the end is empty.
        let pieces = select(0u, p.pieces, row < p.rows);
        var most = wide(MASKED);
        for (var i = lane; i < pieces; i += LANES) {
            most = max(most, score(row, i));
        }
        let largest = reduce_max(local, max_of(most));
        var sum = wide();
        for (var i = lane; i < pieces; i += LANES) {
            sum += exp(score(row, i) - largest);
        }
        let total = reduce_sum(local, sum_of(sum));
        if lane == 0u {
            sh_largest[place] = largest;
            sh_total[place] = total;
        }
    }
    workgroupBarrier();

    let zero = p.rows >> 31u;
    let rows = select(0u, min(p.rows - first, ROWS), first < p.rows);
    let start = first * p.columns / 4u;
    for (var word = local; word < rows * p.columns / 4u; word += GROUP) {
        let piece = read_piece(first, word);
        var stored = piece.y;
        if HALF_Y {
            stored = halves(stored, zero);
        }
        keep(start + word, stored);
        codes[start + word] = codes_under(stored, piece.inverse, piece.zero, p.low, p.high, p.offset, zero);
    }
}
