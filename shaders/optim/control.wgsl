// One workgroup: adds up the parts of the gradient's square sum, decides whether the step is done and by how much the gradient
// is scaled, and counts the steps. control and state are laid out as in kernels/optim/control.rs.

struct Params {
    parts: u32,
    most: f32,
    // −ln β
    decay1: f32,
    decay2: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> parts: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> inverse_scale: array<f32>;
@group(0) @binding(3) var<storage, read_write> control: array<f32>;
@group(0) @binding(4) var<storage, read_write> state: array<f32>;

var<workgroup> cells: array<vec2<f32>, GROUP>;

fn is_finite(v: f32) -> bool {
    return (bitcast<u32>(v) & 0x7f800000u) != 0x7f800000u;
}

// 1 − exp(−x) for x >= 0, near 0 by its series: the difference would cancel there.
fn one_less_power(x: f32) -> f32 {
    if x > 0.5 {
        return 1.0 - exp(-x);
    }
    var sum = 1.0;
    for (var i = 9.0; i > 1.0; i -= 1.0) {
        sum = 1.0 - x / i * sum;
    }
    return x * sum;
}

@compute @workgroup_size(GROUP)
fn main(@builtin(local_invocation_index) local: u32) {
    var sum = vec2(0.0);
    for (var i = local; i < p.parts; i += GROUP) {
        sum += parts[i];
    }
    cells[local] = sum;
    workgroupBarrier();
    for (var half = GROUP / 2u; half > 0u; half /= 2u) {
        if local < half {
            cells[local] += cells[local + half];
        }
        workgroupBarrier();
    }
    if local != 0u {
        return;
    }
    let squares = cells[0].x;
    if cells[0].y != 0.0 || !is_finite(squares) {
        state[1] += 1.0;
        control[0] = 0.0;
        control[1] = 0.0;
        control[2] = 0.0;
    } else {
        let norm = sqrt(squares) * inverse_scale[0];
        var clip = 1.0;
        if p.most > 0.0 {
            clip = min(1.0, p.most / (norm + 1e-6));
        }
        state[0] += 1.0;
        control[0] = norm;
        control[1] = clip * inverse_scale[0];
        control[2] = 1.0;
    }
    control[3] = state[0];
    control[4] = state[1];
    control[5] = one_less_power(state[0] * p.decay1);
    control[6] = one_less_power(state[0] * p.decay2);
    control[7] = 0.0;
}
