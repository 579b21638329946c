#import common/dropout.wgsl

// A product of heads on floats: the factor of the sums is p.scale. DROP_LEFT drops elements of the left operand as they are read,
// and p.scale has the scale of those that are kept; DROP_Y drops results. The index is that of the map.

alias Total = vec4<f32>;

@group(0) @binding(3) var<storage, read> seed: array<u32>;

// Of what is dropped.
var<private> keys: vec2<u32>;

fn prepare(head: u32) {
    if DROP_LEFT || DROP_Y {
        keys = dropout_keys(seed[0], p.salt);
    }
}

// Which of four elements of the left operand, the first of them at `at`, are not dropped.
fn kept(at: u32) -> vec4<bool> {
    if DROP_LEFT {
        return are_kept(at, keys, p.threshold);
    }
    return vec4<bool>(true);
}

fn floats_of(total: Total) -> vec4<f32> {
    return total;
}

// The results [row, column .. column + 4], the first of them at `at`.
fn finished(sum: vec4<f32>, image: u32, row: u32, head: u32, column: u32, at: u32) -> vec4<f32> {
    let v = sum * p.scale;
    if DROP_Y {
        return select(vec4<f32>(), v * p.dropout_scale, are_kept(at, keys, p.threshold));
    }
    return with_prior(v, image, row, head, column);
}
