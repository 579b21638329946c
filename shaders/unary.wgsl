#import common/index.wgsl

// y = f(x), one invocation a number or a vec4 of numbers. FUNCTION is the host's `Function`; wide_x and wide_y are the stored
// types, wide is f32 of the same width.

struct Params {
    n: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<wide_x>;
@group(0) @binding(2) var<storage, read_write> y: array<wide_y>;

fn eval(v: wide) -> wide {
    switch FUNCTION {
        case 1u: {
            return max(v, wide(0.0));
        }
        case 2u: {
            return clamp(v, wide(0.0), wide(6.0));
        }
        case 3u: {
            // Bounded, since WGSL promises no infinities: below -80 the result is as good as 0.
            return 1.0 / (1.0 + exp(min(-v, wide(80.0))));
        }
        case 4u: {
            return -v;
        }
        default: {
            return v;
        }
    }
}

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i < p.n {
        y[i] = wide_y(eval(wide(x[i])));
    }
}
