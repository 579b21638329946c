#import common/epilogue.wgsl

// The result, any n, after the epilogue.

@group(0) @binding(3) var<storage, read> scale: array<f32>;
@group(0) @binding(4) var<storage, read> shift: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<element_y>;
@group(0) @binding(6) var<storage, read_write> y: array<element_y>;

// Stores the sums of columns `column`..`column + 4` of a group.
fn store_y(row: u32, column: u32, group: u32, split: u32, sums: vec4<f32>) {
    if !is_stored(row, group) {
        return;
    }
    for (var j = 0u; j < 4u; j++) {
        if column + j >= p.n {
            return;
        }
        let channel = channel_of(column + j, group);
        let i = place_of_y(row, column + j, group, split);
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
