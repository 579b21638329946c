// Which of the four elements of piece i are kept.
fn kept(i: u32, keys: vec2<u32>) -> vec4<bool> {
    return are_kept(i * 4u, keys, p.threshold);
}
