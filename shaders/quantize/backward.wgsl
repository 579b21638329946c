#import common/index.wgsl
#import common/reduce.wgsl
#import common/rounded.wgsl

// The straight-through gradients of a quantizer. With u = x · (1 / alpha) + Z, q its code, d the gradient of alpha · (q - Z), and inside
// where low <= u <= high:
//   d_x = inside ? d : 0,   d_alpha = Σ d · (inside ? q - u : q - Z),   d_zp = Σ d · (inside ? 0 : -alpha)   over a step size's elements.
//
// LANES invocations take a part of the elements of one step size, four each at a time, whose loads are under way together, and leave
// two sums in one row of `sums`, in the columns of the state; the sums over the parts are a node of their own. x and d are read once.
// p.inner counts the neighbouring numbers, or vec4s of them, that share a step size; p.pieces all that share one.

struct Params {
    pieces: u32,
    inner: u32,
    groups: u32,
    parts: u32,
    chunk: u32,
    low: f32,
    high: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<wide_x>;
@group(0) @binding(2) var<storage, read> state: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> d_codes: array<wide_d>;
@group(0) @binding(4) var<storage, read_write> d_x: array<wide_x>;
@group(0) @binding(5) var<storage, read_write> sums: array<vec4<f32>>;

// Where the i-th piece of a step size lies.
fn place_of(i: u32, group: u32) -> u32 {
    if p.groups == 1u {
        return i;
    }
    let run = i / p.inner;
    return (run * p.groups + group) * p.inner + (i - run * p.inner);
}

var<private> alpha_sum: wide;
var<private> outside_sum: wide;

// The gradient of one piece, which counts when it is within its part.
fn differentiate(at: u32, counts: bool, s: vec4<f32>, x_: wide, d_: wide) {
    let d = select(wide(), d_, counts);
    let product = lanes_of(rounded4(vec4<f32>(x_ * s.y), p.parts >> 31u));
    let u = product + wide(s.z);
    let q = round(clamp(u, wide(p.low), wide(p.high)));
    let inside = (u >= wide(p.low)) & (u <= wide(p.high));
    if counts {
        d_x[at] = wide_x(select(wide(), d, inside));
    }
    alpha_sum += d * (q - select(wide(s.z), u, inside));
    outside_sum += select(d, wide(), inside);
}

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    // Neighbours take neighbouring step sizes, which are neighbours in memory.
    let flat = flat_group(workgroup, workgroups) * (GROUP / LANES) + local / LANES;
    let lane = local % LANES;
    let group = flat % p.groups;
    let part = flat / p.groups;
    let s = state[min(group, p.groups - 1u)];
    let start = part * p.chunk;
    // A part past the end is empty.
    let end = select(0u, min(start + p.chunk, p.pieces), part < p.parts);

    alpha_sum = wide();
    outside_sum = wide();
    for (var i = start + lane; i < end; i += 4u * LANES) {
        // Written out: what is past the end is read as the last and does not count.
        let at_0 = place_of(i, group);
        let at_1 = place_of(min(i + LANES, end - 1u), group);
        let at_2 = place_of(min(i + 2u * LANES, end - 1u), group);
        let at_3 = place_of(min(i + 3u * LANES, end - 1u), group);
        let x_0 = wide(x[at_0]);
        let x_1 = wide(x[at_1]);
        let x_2 = wide(x[at_2]);
        let x_3 = wide(x[at_3]);
        let d_0 = wide(d_codes[at_0]);
        let d_1 = wide(d_codes[at_1]);
        let d_2 = wide(d_codes[at_2]);
        let d_3 = wide(d_codes[at_3]);
        differentiate(at_0, true, s, x_0, d_0);
        differentiate(at_1, i + LANES < end, s, x_1, d_1);
        differentiate(at_2, i + 2u * LANES < end, s, x_2, d_2);
        differentiate(at_3, i + 3u * LANES < end, s, x_3, d_3);
    }
    let d_alpha = reduce_sum(local, sum_of(alpha_sum));
    let d_outside = reduce_sum(local, sum_of(outside_sum));
    if lane == 0u && part < p.parts {
        sums[part * p.groups + group] = vec4<f32>(d_alpha, 0.0, -s.x * d_outside, 0.0);
    }
}
