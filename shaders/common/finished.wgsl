#import common/epilogue.wgsl
#import common/rounded.wgsl
#import common/sums_of_codes.wgsl

// From integer sums S of four neighbouring channels to activation(scale[n] · S + shift[n] + residual), with the product rounded before it is
// added.

// The nearest floats.
fn floats_of(sums: vec4<i32>) -> vec4<f32> {
    if ARE_SMALL {
        return floats_of_small(sums);
    }
    if IN_PARTS {
        return nearest_floats(sums);
    }
    return vec4<f32>(sums);
}

fn finished(scale: vec4<f32>, shift: vec4<f32>, sums: vec4<i32>, added: vec4<f32>) -> vec4<f32> {
    var v = floats_of(sums);
    if HAS_SCALE {
        v = rounded4(v * scale, p.n >> 31u);
    }
    if HAS_SHIFT {
        v += shift;
    }
    if HAS_RESIDUAL {
        v += added;
    }
    return activate(v);
}
