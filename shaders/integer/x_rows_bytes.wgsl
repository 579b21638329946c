#import common/codes.wgsl

// The left operand: rows of codes [m, k], any k.

@group(0) @binding(1) var<storage, read> x: array<u32>;

// Four neighbouring rows.
struct LaneX {
    row: u32,
}

fn lane_x(row: u32) -> LaneX {
    return LaneX(row);
}

fn byte_x(row: u32, k: u32) -> u32 {
    if row < p.m && k < p.k {
        let i = (product * p.m + row) * p.k + k;
        return byte_of(x[i / 4u], i);
    }
    return 0u;
}

fn word_x(row: u32, k: u32) -> u32 {
    return word_of(byte_x(row, k), byte_x(row, k + 1u), byte_x(row, k + 2u), byte_x(row, k + 3u));
}

fn words_x(lane: LaneX, k: u32) -> vec4<u32> {
    let row = lane.row;
    return vec4<u32>(word_x(row, k), word_x(row + 1u, k), word_x(row + 2u, k), word_x(row + 3u, k));
}
