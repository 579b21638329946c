#import common/index.wgsl
#import common/reduce.wgsl
#import common/rounded.wgsl

// scale[n] = alpha_x · alpha_w[n],  shift[n] = bias[n] - (scale[n] · z0) · Σ w[n, k], every product rounded. LANES invocations a row
// of codes: each adds up every LANES-th word of it. Sums of up to 2^17 codes are exact in f32, in any order.

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
    let lane = local % LANES;
    let inside = row < p.n;
    let first = row * p.k;
    let last = select(first, first + p.k, inside);
    var sum = 0;
    // The first and the last word may hold codes of other rows too.
    for (var word = first / 4u + lane; word * 4u < last; word += LANES) {
        let i = word * 4u + vec4<u32>(0u, 1u, 2u, 3u);
        let mine = (i >= vec4<u32>(first)) & (i < vec4<u32>(last));
        sum += dot(select(vec4<i32>(), unpack4xI8(w[word]), mine), vec4<i32>(1));
    }
    let total = reduce_sum(local, f32(sum));
    if lane == 0u && inside {
        let zero = p.n >> 31u;
        let s = rounded(x_state[0].x * w_state[row].x, zero);
        var b = 0.0;
        if HAS_BIAS {
            b = bias[row];
        }
        scale[row] = s;
        shift[row] = b - rounded(rounded(s * x_state[0].w, zero) * total, zero);
    }
}
