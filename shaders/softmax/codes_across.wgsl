#import common/index.wgsl
#import common/quantized.wgsl
#import common/reduce.wgsl

// The codes of a softmax, and the softmax itself where `keep` stores it, for rows of any length: a word may begin in one row and end in
// the next, or in one behind it. A workgroup takes ROWS rows, a multiple of four, so that its codes are whole words: first each row's
// largest score and sum, then all words in order.

const AT_ONCE = GROUP / LANES;
const ROWS = max(AT_ONCE, 4u);

var<workgroup> sh_largest: array<f32, ROWS>;
var<workgroup> sh_total: array<f32, ROWS>;

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let first = flat_group(group, groups) * ROWS;
    for (var turn = 0u; turn < ROWS; turn += AT_ONCE) {
        let place = turn + local / LANES;
        let largest = find_largest(local, first + place);
        let total = find_total(local, largest);
        if local % LANES == 0u {
            sh_largest[place] = largest;
            sh_total[place] = total;
        }
    }
    workgroupBarrier();

    let rows = select(0u, min(p.rows - first, ROWS), first < p.rows);
    let start = first * p.keys / 4u;
    for (var word = local; word < rows * p.keys / 4u; word += GROUP) {
        var place = 4u * word / p.keys;
        var column = 4u * word - place * p.keys;
        var y: vec4<f32>;
        var scale: vec4<f32>;
        var z: vec4<f32>;
        for (var j = 0u; j < 4u; j++) {
            let score = score_of(first + place, column);
            y[j] = exp(score - sh_largest[place]) / sh_total[place];
            let s = state_of_row(first + place);
            scale[j] = s.y;
            z[j] = s.z;
            column++;
            if column == p.keys {
                column = 0u;
                place++;
            }
        }
        y = stored(y);
        keep(start + word, y);
        codes[start + word] = codes_under(y, scale, z, p.low, p.high, p.offset, p.rows >> 31u);
    }
}

// The score of one column.
fn score_of(row: u32, column: u32) -> f32 {
    let v = min(f32(x[row * p.keys + column]), -MASKED);
    if HAS_MASK {
        return select(MASKED, v, mask[row / p.rows_of_mask * p.keys + column] != 0u);
    }
    return v;
}
