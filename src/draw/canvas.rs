//! Filled rectangles, cut at the picture's edge.

use image::{Rgb, RgbImage};

/// Pixels `left..right` × `top..bottom`; may reach outside a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rect {
    pub(super) left: i32,
    pub(super) top: i32,
    pub(super) right: i32,
    pub(super) bottom: i32,
}

impl Rect {
    /// The whole picture.
    pub(super) fn of(image: &RgbImage) -> Self {
        let end = |length: u32| i32::try_from(length).expect("no picture in memory has a side of 2^31 pixels");
        Self { left: 0, top: 0, right: end(image.width()), bottom: end(image.height()) }
    }

    pub(super) fn width(self) -> i32 {
        self.right - self.left
    }

    pub(super) fn height(self) -> i32 {
        self.bottom - self.top
    }

    /// Moved outward by `n` pixels on every side.
    pub(super) fn grown(self, n: i32) -> Self {
        Self { left: self.left - n, top: self.top - n, right: self.right + n, bottom: self.bottom + n }
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }
}

/// Fills a rectangle.
pub(super) fn fill(image: &mut RgbImage, rect: Rect, color: Rgb<u8>) {
    let bounds = Rect::of(image);
    for y in rect.top.max(0)..rect.bottom.min(bounds.bottom) {
        for x in rect.left.max(0)..rect.right.min(bounds.right) {
            image.put_pixel(x as u32, y as u32, color);
        }
    }
}

/// Draws the outline of a rectangle, `thickness` pixels inward.
pub(super) fn frame(image: &mut RgbImage, rect: Rect, thickness: i32, color: Rgb<u8>) {
    let Rect { left, top, right, bottom } = rect;
    let (across, down) = (thickness.min(rect.width()), thickness.min(rect.height()));
    fill(image, Rect { bottom: top + down, ..rect }, color);
    fill(image, Rect { top: bottom - down, ..rect }, color);
    fill(image, Rect { right: left + across, ..rect }, color);
    fill(image, Rect { left: right - across, ..rect }, color);
}
