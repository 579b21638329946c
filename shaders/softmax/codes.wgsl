#import common/index.wgsl
#import common/quantized.wgsl
#import common/reduce.wgsl

// The codes of a softmax, and the softmax itself where `keep` stores it: rows of whole words, LANES invocations a row.

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let row = flat_group(group, groups) * (GROUP / LANES) + local / LANES;
    let total = find_total(local, find_largest(local, row));
    let s = state_of_row(row);
    for (var i = 0u; i < STEPS; i++) {
        let piece = local % LANES + i * LANES;
        if row < p.rows && piece < p.pieces {
            let y = stored(weights[i] / total);
            let at = row * p.pieces + piece;
            keep(at, y);
            codes[at] = codes_under(y, vec4<f32>(s.y), vec4<f32>(s.z), p.low, p.high, p.offset, p.rows >> 31u);
        }
    }
}
