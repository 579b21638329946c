// The right operand where neighbours are neighbouring columns: blocks of four k by four columns, of which four words of codes along k
// are made.

@group(0) @binding(2) var<storage, read> right: array<u32>;

const RIGHT_BLOCKS = TILE_N * QUADS;

alias RightBlock = vec4<u32>;

fn block_of(slot: u32) -> u32 {
    return slot % BLOCKS_N;
}

fn part_of(slot: u32) -> u32 {
    return slot / BLOCKS_N;
}

// Four columns' codes for one k.
fn load_word(start: u32, column: u32, k: u32) -> u32 {
    let count = select(0u, min(p.n - column, 4u), column < p.n && k < p.k);
    let at = select(0u, start + k * p.right_row + column, count > 0u);
    let word = right[at / 4u];
    if RIGHT_FOURS {
        return select(no_word, word, count > 0u);
    }
    let shift = at % 4u * 8u;
    let last = right[(at + max(count, 1u) - 1u) / 4u];
    // In two steps: there is no shift by 32.
    return counted(vec4<u32>((word >> shift) | (last << (31u - shift) << 1u)), count).x;
}

fn load_block(slot: u32, slice: u32, start: u32, tile_column: u32) -> vec4<u32> {
    let column = tile_column + block_of(slot) * 4u;
    let k = slice + part_of(slot) * 4u;
    return vec4<u32>(
        load_word(start, column, k),
        load_word(start, column, k + 1u),
        load_word(start, column, k + 2u),
        load_word(start, column, k + 3u),
    );
}

// Stores a block as words along k, and returns the sums of its columns' codes.
fn stage_block(slot: u32, block: vec4<u32>) -> vec4<i32> {
    let words = columns_of(block);
    sh_right[part_of(slot) * STRIDE_RIGHT + block_of(slot)] = words;
    return dots(ONES, words);
}
