// The windows of four neighbouring output pixels.
struct LaneX {
    rows: array<RowX, 4>,
}

fn lane_x(row: u32) -> LaneX {
    return LaneX(array<RowX, 4>(row_x(row, 0u), row_x(row + 1u, 0u), row_x(row + 2u, 0u), row_x(row + 3u, 0u)));
}
