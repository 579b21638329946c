// The right operand where neighbours are neighbouring k: blocks of four columns by sixteen k, which lie in workgroup memory
// transposed.

const RIGHT_BLOCKS = TILE_N / 4u * QUADS;

struct RightBlock {
    a: vec4<u32>,
    b: vec4<u32>,
    c: vec4<u32>,
    d: vec4<u32>,
}

fn block_of(slot: u32) -> u32 {
    return slot / QUADS;
}

fn part_of(slot: u32) -> u32 {
    return slot % QUADS;
}

fn load_column(start: u32, column: u32, k: u32) -> vec4<u32> {
    let count = select(0u, min(p.k - k, 16u), column < p.n && k < p.k);
    let sixteen = load_right(select(0u, start + column * p.right_row + k, count > 0u), count);
    if WHOLE_QUADS {
        return select(vec4<u32>(no_word), sixteen, count > 0u);
    }
    return counted(sixteen, count);
}

fn load_block(slot: u32, slice: u32, start: u32, tile_column: u32) -> RightBlock {
    // A block past the end is not staged.
    let column = tile_column + block_of(slot) * 4u;
    let k = slice + part_of(slot) * 16u;
    return RightBlock(
        load_column(start, column, k),
        load_column(start, column + 1u, k),
        load_column(start, column + 2u, k),
        load_column(start, column + 3u, k),
    );
}

// Stores a block, and returns the sums of its columns' codes.
fn stage_block(slot: u32, block: RightBlock) -> vec4<i32> {
    let at = part_of(slot) * 4u * STRIDE_RIGHT + block_of(slot);
    sh_right[at] = vec4<u32>(block.a.x, block.b.x, block.c.x, block.d.x);
    sh_right[at + STRIDE_RIGHT] = vec4<u32>(block.a.y, block.b.y, block.c.y, block.d.y);
    sh_right[at + 2u * STRIDE_RIGHT] = vec4<u32>(block.a.z, block.b.z, block.c.z, block.d.z);
    sh_right[at + 3u * STRIDE_RIGHT] = vec4<u32>(block.a.w, block.b.w, block.c.w, block.d.w);
    return vec4<i32>(sum_of_codes(block.a), sum_of_codes(block.b), sum_of_codes(block.c), sum_of_codes(block.d));
}
