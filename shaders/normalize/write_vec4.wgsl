@group(0) @binding(4) var<storage, read_write> y: array<element_y4>;

fn write_piece(word: u32, values: element_y4) {
    y[word] = values;
}
