// What a mask says of a pixel.
fn valid(image: u32, row: u32, column: u32) -> u32 {
    return source[(image * p.height + row) * p.width + column];
}
