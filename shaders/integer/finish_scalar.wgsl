#import common/epilogue.wgsl
#import common/rounded.wgsl

// From integer sums to the result [m, n], any n: activation(scale[n] · S + shift[n] + residual), with the product rounded
// before it is added.

@group(0) @binding(3) var<storage, read> scale: array<f32>;
@group(0) @binding(4) var<storage, read> shift: array<f32>;
@group(0) @binding(AT_RESIDUAL) var<storage, read> residual: array<element_y>;
@group(0) @binding(AT_Y) var<storage, read_write> y: array<element_y>;

// The nearest float. Above 2^24 WGSL lets a conversion round either way; the sum of two exact parts rounds to nearest.
fn float_of(sum: i32) -> f32 {
    if IN_PARTS {
        return f32(sum & -4096) + f32(sum & 4095);
    }
    return f32(sum);
}

// Stores the results of columns `column`..`column + 4`.
fn store_sums(row: u32, column: u32, sums: vec4<i32>) {
    if row >= p.m {
        return;
    }
    for (var j = 0u; j < 4u; j++) {
        if column + j >= p.n {
            return;
        }
        let channel = column + j;
        let i = row * p.n + channel;
        var v = float_of(sums[j]);
        if HAS_SCALE {
            v = rounded(v * scale[channel], p.n >> 31u);
        }
        if HAS_SHIFT {
            v += shift[channel];
        }
        if HAS_RESIDUAL {
            v += f32(residual[i]);
        }
        y[i] = element_y(activate(vec4<f32>(v)).x);
    }
}
