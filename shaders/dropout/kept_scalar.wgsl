// Which of the one element of piece i are kept.
fn kept(i: u32, keys: vec2<u32>) -> bool {
    return is_kept(i, keys, p.threshold);
}
