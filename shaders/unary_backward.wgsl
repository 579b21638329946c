#import common/index.wgsl

// d_x = d_y · f'(x), the derivative as a function of y = f(x). One invocation a number or a vec4 of numbers.

struct Params {
    n: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> y: array<wide_y>;
@group(0) @binding(2) var<storage, read> d_y: array<wide_y>;
@group(0) @binding(3) var<storage, read_write> d_x: array<wide_x>;

fn derivative(v: wide) -> wide {
    switch FUNCTION {
        case 1u: {
            return select(wide(0.0), wide(1.0), v > wide(0.0));
        }
        case 2u: {
            return select(wide(0.0), wide(1.0), v > wide(0.0)) * select(wide(0.0), wide(1.0), v < wide(6.0));
        }
        default: {
            return v * (1.0 - v);
        }
    }
}

@compute @workgroup_size(GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, GROUP);
    if i < p.n {
        d_x[i] = wide_x(wide(d_y[i]) * derivative(wide(y[i])));
    }
}
