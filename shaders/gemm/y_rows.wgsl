#import common/epilogue.wgsl

// The result, n a multiple of 4, after the epilogue.

@group(0) @binding(3) var<storage, read> scale: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> shift: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> residual: array<element_y4>;
@group(0) @binding(6) var<storage, read_write> y: array<element_y4>;

// Stores the sums of columns `column`..`column + 4` of a group.
fn store_y(row: u32, column: u32, group: u32, split: u32, sums: vec4<f32>) {
    if column >= p.n || !is_stored(row, group) {
        return;
    }
    let channel = channel_of(column, group) / 4u;
    let i = place_of_y(row, column, group, split) / 4u;
    var v = sums;
    if HAS_SCALE {
        v *= scale[channel];
    }
    if HAS_SHIFT {
        v += shift[channel];
    }
    if HAS_RESIDUAL {
        v += vec4<f32>(residual[i]);
    }
    y[i] = element_y4(activate(v));
}
