// Whether a pixel is one of the picture in the upper left corner, of which height and width are known.
fn valid(image: u32, row: u32, column: u32) -> u32 {
    return select(0u, 1u, row < source[2u * image] && column < source[2u * image + 1u]);
}
