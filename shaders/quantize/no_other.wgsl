// There is no other gradient of x.
fn other_at(at: u32) -> wide {
    return wide();
}
