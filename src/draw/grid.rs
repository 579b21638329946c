//! Pictures in rows and columns, each with a title.

use super::text::Pen;
use super::{BLACK, WHITE};
use image::{RgbImage, imageops};

const GAP: i64 = 8;
/// Of titles, in pixels.
const TEXT: f32 = 18.0;

/// A picture of a grid.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Above it.
    pub title: String,
    /// The picture.
    pub image: RgbImage,
}

/// Puts pictures side by side and below each other: every column is as wide as its widest, every row as high as its highest.
pub fn grid(rows: &[Vec<Panel>]) -> RgbImage {
    let pen = Pen::new(TEXT);
    let title = i64::from(pen.height()) + 2;
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |panel: &Panel| i64::from(panel.image.width()).max(i64::from(pen.width(&panel.title).min(1 << 12)));
    let widths: Vec<i64> = (0..columns).map(|c| rows.iter().filter_map(|row| row.get(c)).map(width).max().unwrap_or(0)).collect();
    let heights: Vec<i64> = rows.iter().map(|row| row.iter().map(|p| i64::from(p.image.height())).max().unwrap_or(0) + title).collect();
    let whole = |lengths: &[i64]| (lengths.iter().map(|length| length + GAP).sum::<i64>() + GAP) as u32;
    let mut all = RgbImage::from_pixel(whole(&widths), whole(&heights), WHITE);
    let mut top = GAP;
    for (row, height) in rows.iter().zip(&heights) {
        let mut left = GAP;
        for (panel, width) in row.iter().zip(&widths) {
            pen.write_at(&mut all, &panel.title, left as i32, top as i32, BLACK);
            imageops::replace(&mut all, &panel.image, left, top + title);
            left += width + GAP;
        }
        top += height + GAP;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn pictures_lie_in_rows_and_columns() {
        let panel = |width, height, red| Panel { title: "a".into(), image: RgbImage::from_pixel(width, height, Rgb([red, 0, 0])) };
        let title = Pen::new(TEXT).height() as u32 + 2;
        let all = grid(&[vec![panel(30, 20, 1), panel(40, 25, 2)], vec![panel(50, 10, 3)]]);
        assert_eq!(all.dimensions(), (8 + 50 + 8 + 40 + 8, 8 + title + 25 + 8 + title + 10 + 8));
        let red = |x, y| all.get_pixel(x, y).0;
        assert_eq!([red(8, 8 + title), red(8 + 58, 8 + title + 24), red(57, 8 + title + 33 + title)], [[1, 0, 0], [2, 0, 0], [3, 0, 0]]);
        assert_eq!(red(8, 8 + title + 20), [255; 3]);
    }

    #[test]
    fn a_grid_of_nothing_is_its_border() {
        assert_eq!(grid(&[]).dimensions(), (8, 8));
        grid(&[vec![], vec![Panel { title: "x".repeat(100_000), image: RgbImage::new(0, 0) }]]);
    }
}
