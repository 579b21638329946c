#import common/index.wgsl
#import common/reduce.wgsl

// The gradient of a distance with respect to the student's row, LANES invocations a row: d_loss · weight · (student - teacher),
// doubled if SQUARED, otherwise divided by the distance. Exactly 0 where the weight is 0.

struct Params {
    rows: u32,
    pieces: u32,
    students: u32,
    teachers: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> student: array<wide_s>;
@group(0) @binding(2) var<storage, read> teacher: array<wide_t>;
@group(0) @binding(3) var<storage, read> partner: array<u32>;
@group(0) @binding(4) var<storage, read> weight: array<f32>;
@group(0) @binding(5) var<storage, read> d_loss: array<f32>;
@group(0) @binding(6) var<storage, read_write> d_student: array<wide_s>;

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let row = flat_group(group, groups) * (GROUP / LANES) + local / LANES;
    let lane = local % LANES;
    // A row past the end is empty.
    let inside = row < p.rows;
    let safe = select(0u, row, inside);
    let own = safe * p.pieces;
    let other = (safe / p.students * p.teachers + min(partner[safe], p.teachers - 1u)) * p.pieces;
    let pieces = select(0u, p.pieces, inside);
    var factor = 2.0;
    if !SQUARED {
        var sum = wide();
        for (var i = lane; i < pieces; i += LANES) {
            let d = wide(student[own + i]) - wide(teacher[other + i]);
            sum += d * d;
        }
        factor = 1.0 / sqrt(reduce_sum(local, sum_of(sum)) + p.eps);
    }
    let w = weight[safe];
    factor *= d_loss[safe] * w;
    for (var i = lane; i < pieces; i += LANES) {
        let d = factor * (wide(student[own + i]) - wide(teacher[other + i]));
        d_student[own + i] = wide_s(select(d, wide(), w == 0.0));
    }
}
