// The left operand: rows of codes [m, k], k a multiple of 4.

@group(0) @binding(1) var<storage, read> x: array<u32>;

// Four neighbouring rows.
struct LaneX {
    row: u32,
}

fn lane_x(row: u32) -> LaneX {
    return LaneX(row);
}

fn word_x(row: u32, k: u32) -> u32 {
    if row < p.m && k < p.k {
        return x[(product * p.m + row) * (p.k / 4u) + k / 4u];
    }
    return 0u;
}

fn words_x(lane: LaneX, k: u32) -> vec4<u32> {
    let row = lane.row;
    return vec4<u32>(word_x(row, k), word_x(row + 1u, k), word_x(row + 2u, k), word_x(row + 3u, k));
}
