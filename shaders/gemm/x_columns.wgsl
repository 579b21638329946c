// The left operand: columns of a matrix stored as [k, m], m a multiple of 4.

@group(0) @binding(1) var<storage, read> x: array<element_x4>;

// Four neighbouring rows of the result.
struct LaneX {
    row: u32,
}

fn lane_x(row: u32, group: u32) -> LaneX {
    return LaneX(row);
}

fn load_x(row: u32, k: u32) -> vec4<f32> {
    if row < p.m && k < p.k {
        return vec4<f32>(x[k * (p.m / 4u) + row / 4u]);
    }
    return vec4<f32>();
}

fn block_x(lane: LaneX, k: u32) -> mat4x4<f32> {
    let row = lane.row;
    return mat4x4<f32>(load_x(row, k), load_x(row, k + 1u), load_x(row, k + 2u), load_x(row, k + 3u));
}
