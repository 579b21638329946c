#import common/epilogue.wgsl

// The result [splits, m, groups * n], any n, after the epilogue.

@group(0) @binding(3) var<storage, read> scale: array<f32>;
@group(0) @binding(4) var<storage, read> shift: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<element_y>;
@group(0) @binding(6) var<storage, read_write> y: array<element_y>;

// Stores the sums of columns `column`..`column + 4` of a group.
fn store_y(row: u32, column: u32, group: u32, split: u32, sums: vec4<f32>) {
    if row >= p.m {
        return;
    }
    for (var j = 0u; j < 4u; j++) {
        if column + j >= p.n {
            return;
        }
        let channel = group * p.n + column + j;
        let i = (split * p.m + row) * (p.groups * p.n) + channel;
        var v = sums[j];
        if HAS_SCALE {
            v *= scale[channel];
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
