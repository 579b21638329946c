#import common/gaussian.wgsl

// SMCA's prior behind a product of heads: PRIOR adds its Gaussian to the results, whose columns are the cells of a grid.

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

fn with_prior(v: vec4<f32>, image: u32, row: u32, head: u32, column: u32) -> vec4<f32> {
    if !PRIOR {
        return v;
    }
    let sum = v + prior(image, row, head, column);
    if HALF_Y {
        return max(sum, vec4<f32>(-65504.0));
    }
    return sum;
}
