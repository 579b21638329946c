#import common/index.wgsl
#import common/reduce.wgsl
#import common/rounded.wgsl

// The straight-through gradients of a quantizer. With u = x · (1 / alpha) + Z, q its code, d the gradient of alpha · (q - Z), and inside
// where low <= u <= high:
//   d_x = inside ? d : 0,   d_alpha = Σ d · (inside ? q - u : q - Z),   d_zp = Σ d · (inside ? 0 : -alpha)   over a step size's elements.
//
// A workgroup takes a part of the elements of one step size and leaves its two sums in one row of `sums`, in the columns of the
// state; the sums over the parts are a node of their own. x and d are read once. p.inner counts the neighbouring numbers, or
// vec4s of them, that share a step size; p.pieces all that share one.

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

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    // Neighbouring workgroups take neighbouring step sizes, which are neighbours in memory.
    let flat = flat_group(workgroup, workgroups);
    let group = flat % p.groups;
    let part = flat / p.groups;
    let s = state[min(group, p.groups - 1u)];
    let start = part * p.chunk;
    // A part past the end is empty.
    let end = select(0u, min(start + p.chunk, p.pieces), part < p.parts);

    var alpha_sum = wide();
    var outside_sum = wide();
    for (var i = start + local; i < end; i += GROUP) {
        let run = i / p.inner;
        let at = (run * p.groups + group) * p.inner + (i - run * p.inner);
        let d = wide(d_codes[at]);
        let product = lanes_of(rounded4(vec4<f32>(wide(x[at]) * s.y), p.parts >> 31u));
        let u = product + wide(s.z);
        let q = round(clamp(u, wide(p.low), wide(p.high)));
        let inside = (u >= wide(p.low)) & (u <= wide(p.high));
        d_x[at] = wide_x(select(wide(), d, inside));
        alpha_sum += d * (q - select(wide(s.z), u, inside));
        outside_sum += select(d, wide(), inside);
    }
    let d_alpha = reduce_sum(local, sum_of(alpha_sum));
    let d_outside = reduce_sum(local, sum_of(outside_sum));
    if local == 0u && part < p.parts {
        sums[part * p.groups + group] = vec4<f32>(d_alpha, 0.0, -s.x * d_outside, 0.0);
    }
}
