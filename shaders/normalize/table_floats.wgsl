@group(0) @binding(3) var<storage, read> table: array<element_y>;

fn look_up(i: u32) -> element_y {
    return table[i];
}
