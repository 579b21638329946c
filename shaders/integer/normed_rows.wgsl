#import common/index.wgsl
#import common/reduce.wgsl

// y = norm(scale[n] · S + shift[n] + residual), S[m, n] = sum over k of x[m, k] * w[n, k], of codes, for rows of any length. LANES invocations
// a row, as a norm by itself has them (layer_norm.wgsl), each with STEPS vectors of it.

@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read> w: array<u32>;

fn constant_at(i: u32) -> vec4<f32> {
    return constants[i];
}

fn sum_at(row: u32, column: u32) -> i32 {
    let words = p.k / 4u;
    var sum = 0;
    for (var i = 0u; i < words; i++) {
        sum += dot(unpack4xI8(x[row * words + i]), unpack4xI8(w[column * words + i]));
    }
    return sum;
}

fn sums_at(row: u32, vector: u32) -> vec4<i32> {
    let column = vector * 4u;
    return vec4<i32>(sum_at(row, column), sum_at(row, column + 1u), sum_at(row, column + 2u), sum_at(row, column + 3u));
}

@compute @workgroup_size(GROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let row = flat_group(group, groups) * (GROUP / LANES) + local / LANES;
    let lane = local % LANES;
    // A row past the end is empty.
    let vectors = select(0u, p.n / 4u, row < p.m);

    var values: array<vec4<f32>, STEPS>;
    var sum = wide();
    for (var i = 0u; i < STEPS; i++) {
        let vector = lane + i * LANES;
        if vector < vectors {
            values[i] = value_of(vector, sums_at(row, vector), vec4<f32>(residual_at(result_at(row, vector))));
            sum += values[i];
        }
    }
    let mean = reduce_sum(local, sum_of(sum)) / f32(p.n);

    sum = wide();
    for (var i = 0u; i < STEPS; i++) {
        if lane + i * LANES < vectors {
            sum = with_square(sum, values[i], mean);
        }
    }
    let r = inverse_deviation(reduce_sum(local, sum_of(sum)));

    for (var i = 0u; i < STEPS; i++) {
        let vector = lane + i * LANES;
        if vector < vectors {
            store_normal(row, vector, values[i], mean, r, addend_at(result_at(row, vector)));
        }
    }
}
