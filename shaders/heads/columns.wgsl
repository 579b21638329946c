// Four rows of four codes, neighbours in memory, become four columns: words along the other direction.
fn columns_of(block: vec4<u32>) -> vec4<u32> {
    let even = block & vec4<u32>(0x00ff00ffu);
    let odd = block >> vec4<u32>(8u) & vec4<u32>(0x00ff00ffu);
    // Of two rows, the codes of columns 0 and 2, and of 1 and 3.
    let low = vec2<u32>(even.x | even.y << 8u, odd.x | odd.y << 8u);
    let high = vec2<u32>(even.z | even.w << 8u, odd.z | odd.w << 8u);
    let first = (low & vec2<u32>(0xffffu)) | (high << vec2<u32>(16u));
    let second = (low >> vec2<u32>(16u)) | (high & vec2<u32>(0xffff0000u));
    return vec4<u32>(first.x, first.y, second.x, second.y);
}
