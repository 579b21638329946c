//! One line of text.

use super::canvas::Rect;
use super::mix;
use ab_glyph::{Font, FontRef, PxScale, PxScaleFont, ScaleFont, point};
use image::{Rgb, RgbImage};

/// DejaVu Sans Condensed Bold, Latin-1 only; licence beside the file.
pub(crate) const FONT: &[u8] = include_bytes!("../../assets/fonts/DejaVuSansCondensed-Bold.ttf");

/// Writes text of one size.
pub(super) struct Pen {
    font: PxScaleFont<FontRef<'static>>,
    padding: f32,
}

impl Pen {
    /// A pen for text of `size` pixels from ascender to descender.
    pub(super) fn new(size: f32) -> Self {
        let font = FontRef::try_from_slice(FONT).expect("the embedded font is a font");
        Self { font: font.into_scaled(PxScale::from(size)), padding: (size / 8.0).round().max(1.0) }
    }

    /// Height of a label in pixels.
    pub(super) fn height(&self) -> i32 {
        (self.font.height() + self.padding).ceil() as i32
    }

    /// Width of a label in pixels.
    pub(super) fn width(&self, text: &str) -> i32 {
        let width: f32 = characters(text).map(|c| self.font.h_advance(self.font.scaled_glyph(c).id)).sum();
        // A million characters are cut at the picture's edge, and a sum of their widths must stay an integer.
        (width + 2.0 * self.padding).ceil().min(1e6) as i32
    }

    /// Writes a line of text from its top left corner.
    pub(super) fn write_at(&self, image: &mut RgbImage, text: &str, left: i32, top: i32, color: Rgb<u8>) {
        let place = Rect { left, top, right: left + self.width(text), bottom: top + self.height() };
        self.write(image, text, place, color);
    }

    /// Writes a label's text into its rectangle, cut at its right edge and at the picture's.
    pub(super) fn write(&self, image: &mut RgbImage, text: &str, place: Rect, color: Rgb<u8>) {
        let end = place.right.min(Rect::of(image).right) as f32;
        let mut x = place.left as f32 + self.padding;
        let baseline = place.top as f32 + self.padding / 2.0 + self.font.ascent();
        for character in characters(text) {
            if x >= end {
                return;
            }
            let mut glyph = self.font.scaled_glyph(character);
            glyph.position = point(x, baseline);
            x += self.font.h_advance(glyph.id);
            if let Some(outline) = self.font.outline_glyph(glyph) {
                let corner = outline.px_bounds().min;
                outline.draw(|dx, dy, coverage| {
                    let (x, y) = (corner.x as i64 + i64::from(dx), corner.y as i64 + i64::from(dy));
                    if let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) {
                        blend(image, x, y, color, coverage);
                    }
                });
            }
        }
    }
}

/// What the font can show: control characters are dropped, characters that it lacks become `?`.
fn characters(text: &str) -> impl Iterator<Item = char> {
    let known = |c: char| matches!(c, ' '..='~' | '\u{A0}'..='\u{FF}' | '…');
    text.chars().filter(|c| !c.is_control()).map(move |c| if known(c) { c } else { '?' })
}

fn blend(image: &mut RgbImage, x: u32, y: u32, color: Rgb<u8>, coverage: f32) {
    if let Some(pixel) = image.get_pixel_mut_checked(x, y) {
        *pixel = mix(*pixel, color, coverage);
    }
}
