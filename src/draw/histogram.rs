//! Histograms, small enough to stand in rows.

use super::canvas::{Rect, fill};
use super::text::Pen;
use super::{BLACK, COLORS, WHITE};
use image::{Rgb, RgbImage};

const SIZE: (u32, u32) = (400, 260);
const LEFT: i32 = 16;
const RIGHT: i32 = 384;
const TOP: i32 = 8;
const BOTTOM: i32 = 228;
const AXIS: Rgb<u8> = Rgb([110, 110, 110]);

/// What a histogram shows.
#[derive(Clone, Debug)]
pub struct Histogram<'a> {
    /// The shares of its bins.
    pub shares: &'a [f64],
    /// What the first bin begins and the last one ends at.
    pub range: (f64, f64),
    /// The share that is as high as the picture.
    pub top: f64,
    /// Lines of text above it.
    pub lines: &'a [String],
    /// Chooses the colour.
    pub series: usize,
}

/// Draws a histogram.
pub fn draw(histogram: &Histogram<'_>) -> RgbImage {
    let mut image = RgbImage::from_pixel(SIZE.0, SIZE.1, WHITE);
    let Histogram { shares, range, top, lines, series } = histogram;
    let bins = shares.len().max(1) as i32;
    let pen = Pen::new(16.0);
    let most = f64::from(BOTTOM - TOP - lines.len() as i32 * pen.height());
    let at = |bin: i32| LEFT + bin * (RIGHT - LEFT) / bins;
    for (bin, share) in shares.iter().enumerate() {
        let height = (share / top).clamp(0.0, 1.0) * most;
        let (left, right) = (at(bin as i32), at(bin as i32 + 1));
        fill(&mut image, Rect { left, top: BOTTOM - height.round() as i32, right, bottom: BOTTOM }, COLORS[(series + 4) % COLORS.len()]);
    }
    fill(&mut image, Rect { left: LEFT, top: BOTTOM, right: RIGHT, bottom: BOTTOM + 1 }, AXIS);
    for (value, along) in [(range.0, 0.0), ((range.0 + range.1) / 2.0, 0.5), (range.1, 1.0)] {
        let text = format!("{value:.1}");
        let x = LEFT + (f64::from(RIGHT - LEFT) * along) as i32;
        fill(&mut image, Rect { left: x, top: BOTTOM, right: x + 1, bottom: BOTTOM + 5 }, AXIS);
        let left = (x - pen.width(&text) / 2).clamp(0, SIZE.0 as i32 - pen.width(&text));
        pen.write_at(&mut image, &text, left, BOTTOM + 8, BLACK);
    }
    for (i, line) in lines.iter().enumerate() {
        pen.write_at(&mut image, line, LEFT, TOP + i as i32 * pen.height(), BLACK);
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_high_as_their_shares() {
        let histogram = Histogram { shares: &[0.25, 0.5, 0.0, 0.25], range: (-1.0, 1.0), top: 0.5, lines: &[], series: 0 };
        let image = draw(&histogram);
        let coloured = |x: i32| (TOP..BOTTOM).filter(|&y| image.get_pixel(x as u32, y as u32) == &COLORS[4]).count() as i32;
        let bar = (RIGHT - LEFT) / 4;
        let heights = [0, 1, 2, 3].map(|bin| coloured(LEFT + bin * bar + bar / 2));
        assert_eq!(heights, [(BOTTOM - TOP) / 2, BOTTOM - TOP, 0, (BOTTOM - TOP) / 2]);
    }

    #[test]
    fn a_histogram_of_nothing_is_empty() {
        draw(&Histogram { shares: &[], range: (0.0, 0.0), top: 0.0, lines: &["nothing".into()], series: 9 });
        draw(&Histogram { shares: &[f64::NAN], range: (f64::NAN, 1.0), top: 0.0, lines: &[], series: 9 });
    }
}
