#import common/quantized.wgsl

// A product of heads on floats and on the values of codes i8: a head has one step size alpha and one stored zero, and a value is
// alpha * (code - zero), rounded to the type of the floats (HALF_VALUES), as if it came from memory. The factor of the sums is p.scale.

alias Total = vec4<f32>;

// [heads]
@group(0) @binding(3) var<storage, read> state: array<vec4<f32>>;

// The stored zero of the head, whichever operand it is of, and its step size.
var<private> zeros: vec2<f32>;
var<private> alpha: f32;

fn prepare(head: u32) {
    let of_head = state[head];
    alpha = of_head.x;
    zeros = of_head.ww;
}

// Nothing is dropped.
fn kept(at: u32) -> vec4<bool> {
    return vec4<bool>(true);
}

fn operand_of(difference: vec4<f32>) -> vec4<f32> {
    let v = alpha * difference;
    if HALF_VALUES {
        return halves(v, p.k >> 31u);
    }
    return v;
}

fn floats_of(total: Total) -> vec4<f32> {
    return total;
}

// The results [row, column .. column + 4], the first of them at `at`.
fn finished(sum: vec4<f32>, image: u32, row: u32, head: u32, column: u32, at: u32) -> vec4<f32> {
    return with_prior(sum * p.scale, image, row, head, column);
}
