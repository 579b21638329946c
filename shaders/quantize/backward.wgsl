#import common/index.wgsl
#import common/straight_through.wgsl

// The straight-through gradients of a quantizer. To d_x another gradient of x may be added, and it may go on through the activation
// and the dropout that x comes from.
//
// A workgroup takes a part of the elements of one step size, an invocation four pieces at a time, whose loads are under way together, and
// leaves two sums in one row of `sums`, in the columns of the state; the sums over the parts are a node of their own. x and d are
// read once; a piece says what x is.
// p.inner counts the neighbouring numbers, or vec4s of them, that share a step size; p.pieces all that share one.

struct Params {
    pieces: u32,
    inner: u32,
    groups: u32,
    parts: u32,
    chunk: u32,
    low: f32,
    high: f32,
    factor: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read> state: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> d_codes: array<wide_d>;
@group(0) @binding(AT_SUMS) var<storage, read_write> sums: array<vec4<f32>>;

// Where the i-th piece of a step size lies.
fn place_of(i: u32, group: u32) -> u32 {
    if p.groups == 1u {
        return i;
    }
    let run = i / p.inner;
    return (run * p.groups + group) * p.inner + (i - run * p.inner);
}

// Whether the gradient goes through the activation that gave x.
fn passes(x_: wide) -> lanes_bool {
    if ACTIVATION == 2u {
        return (x_ > wide()) & (x_ < wide(6.0));
    }
    return x_ > wide();
}

// The gradient of one piece, which counts when it is within its part.
fn differentiate(at: u32, counts: bool, s: vec4<f32>, x_: wide, d_: wide, other: wide) {
    var gradient = straight_through(x_, select(wide(), d_, counts), s, p.low, p.high, p.parts >> 31u) + other;
    if ACTIVATION != 0u {
        gradient = select(wide(), gradient * p.factor, passes(x_));
    }
    if counts {
        write_d_x(at, gradient);
    }
}

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    // Neighbours take neighbouring step sizes, which are neighbours in memory.
    let flat = flat_group(workgroup, workgroups);
    let group = flat % p.groups;
    let part = flat / p.groups;
    let s = state[min(group, p.groups - 1u)];
    let start = part * p.chunk;
    // A part past the end is empty.
    let end = select(0u, min(start + p.chunk, p.pieces), part < p.parts);

    for (var i = start + local; i < end; i += 4u * GROUP) {
        // Written out: what is past the end is read as the last and does not count.
        let at_0 = place_of(i, group);
        let at_1 = place_of(min(i + GROUP, end - 1u), group);
        let at_2 = place_of(min(i + 2u * GROUP, end - 1u), group);
        let at_3 = place_of(min(i + 3u * GROUP, end - 1u), group);
        let x_0 = x_at(at_0);
        let x_1 = x_at(at_1);
        let x_2 = x_at(at_2);
        let x_3 = x_at(at_3);
        let d_0 = wide(d_codes[at_0]);
        let d_1 = wide(d_codes[at_1]);
        let d_2 = wide(d_codes[at_2]);
        let d_3 = wide(d_codes[at_3]);
        let other_0 = other_at(at_0);
        let other_1 = other_at(at_1);
        let other_2 = other_at(at_2);
        let other_3 = other_at(at_3);
        differentiate(at_0, true, s, x_0, d_0, other_0);
        differentiate(at_1, i + GROUP < end, s, x_1, d_1, other_1);
        differentiate(at_2, i + 2u * GROUP < end, s, x_2, d_2, other_2);
        differentiate(at_3, i + 3u * GROUP < end, s, x_3, d_3, other_3);
    }
    let total = state_sums(local, s);
    if local == 0u && part < p.parts {
        sums[part * p.groups + group] = total;
    }
}
