#import common/index.wgsl
#import common/integer_scale.wgsl

// The scale and the shift of a product for each output channel: a row of w.

struct Params {
    n: u32,
    k: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x_state: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w_state: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> w: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> scale: array<f32>;
@group(0) @binding(6) var<storage, read_write> shift: array<f32>;

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let row = flat_group(workgroup, workgroups) * (GROUP / LANES) + local / LANES;
    let inside = row < p.n;
    let first = row * p.k;
    let codes = sum_of_codes(local, first, select(first, first + p.k, inside));
    if local % LANES == 0u && inside {
        var b = 0.0;
        if HAS_BIAS {
            b = bias[row];
        }
        let both = scale_and_shift(x_state[0], w_state[row], b, codes, p.n >> 31u);
        scale[row] = both.x;
        shift[row] = both.y;
    }
}
