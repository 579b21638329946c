// A word of rows whose length four divides: it lies in one row.
fn read_piece(first: u32, word: u32) -> Piece {
    let place = word / p.pieces;
    let row = first + place;
    let y = exp(score(row, word - place * p.pieces) - sh_largest[place]) / sh_total[place];
    let s = state_of_row(row);
    return Piece(y, vec4<f32>(s.y), vec4<f32>(s.z));
}
