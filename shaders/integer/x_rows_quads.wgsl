// The left operand: rows of codes [m, k], k a multiple of 16, sixteen codes a load.

@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;

// Four neighbouring rows.
struct LaneX {
    row: u32,
}

fn lane_x(row: u32) -> LaneX {
    return LaneX(row);
}

fn load_x(row: u32, k: u32) -> vec4<u32> {
    if row < p.m && k < p.k {
        return x[(product * p.m + row) * (p.k / 16u) + k / 16u];
    }
    return vec4<u32>();
}

fn block_x(lane: LaneX, k: u32) -> Block {
    let row = lane.row;
    return block_of(load_x(row, k), load_x(row + 1u, k), load_x(row + 2u, k), load_x(row + 3u, k));
}
