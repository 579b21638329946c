// Bits of `low` where the mask has them, and of `high` elsewhere: one instruction of three operands.
fn joined(low: vec2<u32>, high: vec2<u32>, mask: u32) -> vec2<u32> {
    return (low & vec2<u32>(mask)) | (high & vec2<u32>(~mask));
}

// Four rows of four codes, neighbours in memory, become four columns: words along the other direction.
fn columns_of(block: vec4<u32>) -> vec4<u32> {
    // Of two rows each, the codes of columns 0 and 2, and of 1 and 3.
    let even = joined(block.xz, block.yw << vec2<u32>(8u), 0x00ff00ffu);
    let odd = joined(block.xz >> vec2<u32>(8u), block.yw, 0x00ff00ffu);
    let low = vec2<u32>(even.x, odd.x);
    let high = vec2<u32>(even.y, odd.y);
    let first = joined(low, high << vec2<u32>(16u), 0x0000ffffu);
    let second = joined(low >> vec2<u32>(16u), high, 0x0000ffffu);
    return vec4<u32>(first.x, first.y, second.x, second.y);
}
