@group(0) @binding(4) var<storage, read_write> y: array<element_y>;

// The values of a word: those that are not behind the end.
fn write_piece(word: u32, values: element_y4) {
    for (var i = 0u; i < 4u; i++) {
        if word * 4u + i < p.n {
            y[word * 4u + i] = values[i];
        }
    }
}
