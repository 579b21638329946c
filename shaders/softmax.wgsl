#import common/index.wgsl
#import common/reduce.wgsl

// y = exp(score - max) / Σ exp(score - max) for each row, LANES invocations a row.

struct Params {
    rows: u32,
    pieces: u32,
    rows_of_mask: u32,
    keys: u32,
    pitch: u32,
}

@group(0) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let row = flat_group(group, groups) * (GROUP / LANES) + local / LANES;
    let total = find_total(local, find_largest(local, row));
    for (var i = 0u; i < STEPS; i++) {
        let piece = local % LANES + i * LANES;
        if row < p.rows && piece < p.pieces {
            write_y(row, piece, weights[i] / total);
        }
    }
}
