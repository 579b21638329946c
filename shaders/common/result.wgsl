// How a GEMM's result lies in memory: [splits, m, groups * n].

fn k_of(group: u32) -> u32 {
    return p.k;
}

fn channel_of(column: u32, group: u32) -> u32 {
    return group * p.n + column;
}

fn place_of_y(row: u32, column: u32, group: u32, split: u32) -> u32 {
    return (split * p.m + row) * (p.groups * p.n) + group * p.n + column;
}

fn is_stored(row: u32, group: u32) -> bool {
    return row < p.m;
}
