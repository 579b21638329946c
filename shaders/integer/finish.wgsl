#import common/epilogue.wgsl
#import common/rounded.wgsl

// From integer sums to the result [m, n], n a multiple of 4: activation(scale[n] · S + shift[n] + residual), with the product
// rounded before it is added. A piece says where the residual is, another what is stored.

@group(0) @binding(3) var<storage, read> scale: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> shift: array<vec4<f32>>;

// The nearest floats. Above 2^24 WGSL lets a conversion round either way; the sum of two exact parts rounds to nearest.
fn floats_of(sums: vec4<i32>) -> vec4<f32> {
    if IN_PARTS {
        return vec4<f32>(sums & vec4<i32>(-4096)) + vec4<f32>(sums & vec4<i32>(4095));
    }
    return vec4<f32>(sums);
}

// Stores the results of columns `column`..`column + 4`.
fn store_sums(row: u32, column: u32, sums: vec4<i32>) {
    if row < p.m && column < p.n {
        finish(row, column, sums, residual_at(row * (p.n / 4u) + column / 4u));
    }
}

fn finish(row: u32, column: u32, sums: vec4<i32>, added: vec4<f32>) {
    let channel = column / 4u;
    let i = row * (p.n / 4u) + channel;
    var v = floats_of(sums);
    if HAS_SCALE {
        v = rounded4(v * scale[channel], p.n >> 31u);
    }
    if HAS_SHIFT {
        v += shift[channel];
    }
    if HAS_RESIDUAL {
        v += added;
    }
    store(i, activate(v));
}
