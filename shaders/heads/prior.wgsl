#import common/gaussian.wgsl

// SMCA's prior behind a product of heads.

// [B, N, heads] each
@group(0) @binding(AT_POINTS) var<storage, read> centre: array<vec2<f32>>;
@group(0) @binding(AT_POINTS + 1) var<storage, read> inverse_width: array<vec2<f32>>;

// What the results [row, column .. column + 4] get added.
fn prior(image: u32, row: u32, head: u32, column: u32) -> vec4<f32> {
    let at = (image * p.m + row) * p.heads + head;
    let c = centre[at];
    let w = inverse_width[at];
    return vec4<f32>(
        gaussian(c, w, cell_of(column, p.columns, p.inverse_columns)),
        gaussian(c, w, cell_of(column + 1u, p.columns, p.inverse_columns)),
        gaussian(c, w, cell_of(column + 2u, p.columns, p.inverse_columns)),
        gaussian(c, w, cell_of(column + 3u, p.columns, p.inverse_columns)),
    );
}
