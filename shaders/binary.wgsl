#import common/index.wgsl

// y = a (op) b, one invocation a number or a vec4 of numbers. b repeats every p.b_len of them. FUNCTION is the host's
// `Function`; wide_a and wide_b are the stored types, wide is f32 of the same width. A piece stores the results.

struct Params {
    n: u32,
    b_len: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<wide_a>;
@group(0) @binding(2) var<storage, read> b: array<wide_b>;

// The zero of a rounding barrier.
fn no_bits() -> u32 {
    return p.n >> 31u;
}

// Vectors of results.
fn words() -> u32 {
    return p.n;
}

fn eval(u: wide, v: wide) -> wide {
    switch FUNCTION {
        case 0u: {
            return u + v;
        }
        case 1u: {
            return u - v;
        }
        default: {
            return u * v;
        }
    }
}

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i >= p.n {
        return;
    }
    var j = i;
    if BROADCAST {
        j = i % p.b_len;
    }
    store(i, eval(wide(a[i]), wide(b[j])));
}
