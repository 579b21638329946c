// A word of rows of any length: it may begin in one row and end in the next, or in one behind it.
fn read_piece(first: u32, word: u32) -> Piece {
    var place = 4u * word / p.columns;
    var column = 4u * word - place * p.columns;
    var piece: Piece;
    for (var j = 0u; j < 4u; j++) {
        piece.y[j] = exp(score(first + place, column) - sh_largest[place]) / sh_total[place];
        let s = state_of_row(first + place);
        piece.inverse[j] = s.y;
        piece.zero[j] = s.z;
        column++;
        if column == p.columns {
            column = 0u;
            place++;
        }
    }
    return piece;
}
