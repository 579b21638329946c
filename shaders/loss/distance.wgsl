#import common/index.wgsl
#import common/reduce.wgsl

// loss[r] = weight[r] · d of the student's row r and the teacher's row partner[r] of the same image, LANES invocations a row; d is
// the sum of squared differences or, unless SQUARED, the root of it. Exactly 0 where the weight is 0.

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
@group(0) @binding(5) var<storage, read_write> loss: array<f32>;

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
    var sum = wide();
    for (var i = lane; i < pieces; i += LANES) {
        let d = wide(student[own + i]) - wide(teacher[other + i]);
        sum += d * d;
    }
    let squares = reduce_sum(local, sum_of(sum));
    if inside && lane == 0u {
        let w = weight[row];
        var distance = squares;
        if !SQUARED {
            distance = sqrt(squares + p.eps);
        }
        loss[row] = select(w * distance, 0.0, w == 0.0);
    }
}
