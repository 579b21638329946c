// The product of four signed bytes with four others, by the instruction for it.
fn dot_bytes(a: u32, b: u32) -> u32 {
    return bitcast<u32>(dot4I8Packed(a, b));
}
