#import common/transposed.wgsl

// The left operand: rows of a matrix [m, k], k a multiple of 4.

@group(0) @binding(1) var<storage, read> x: array<element_x4>;

// Four neighbouring rows.
struct LaneX {
    row: u32,
}

fn lane_x(row: u32, group: u32) -> LaneX {
    return LaneX(row);
}

fn load_x(row: u32, k: u32) -> vec4<f32> {
    if row < p.m && k < p.k {
        return vec4<f32>(x[row * (p.k / 4u) + k / 4u]);
    }
    return vec4<f32>();
}

fn block_x(lane: LaneX, k: u32) -> mat4x4<f32> {
    let row = lane.row;
    return transposed(load_x(row, k), load_x(row + 1u, k), load_x(row + 2u, k), load_x(row + 3u, k));
}
