//! Detections on a picture: boxes, class names, scores. Heat maps over pictures, pictures in rows, and plots: [`roofline`]s, [`dots`],
//! [`histogram`]s.
//!
//! Sizes follow the picture's, so that a stamp and a poster read alike. A class keeps its colour from picture to picture;
//! the colours are the seven chromatic ones of Okabe and Ito, which people with any colour vision can tell apart.

mod canvas;
pub mod dots;
mod grid;
mod heat;
pub mod histogram;
pub mod roofline;
mod text;

use canvas::{Rect, fill, frame};
pub use grid::{Panel, grid};
pub use heat::{Heat, heat};
use image::{Rgb, RgbImage};
pub(crate) use text::FONT;
use text::Pen;

/// Okabe and Ito, "Color Universal Design" (2008), without black.
const COLORS: [Rgb<u8>; 7] = [
    Rgb([230, 159, 0]),   // orange
    Rgb([86, 180, 233]),  // sky blue
    Rgb([0, 158, 115]),   // bluish green
    Rgb([240, 228, 66]),  // yellow
    Rgb([0, 114, 178]),   // blue
    Rgb([213, 94, 0]),    // vermilion
    Rgb([204, 121, 167]), // reddish purple
];

const BLACK: Rgb<u8> = Rgb([0, 0, 0]);
const WHITE: Rgb<u8> = Rgb([255, 255, 255]);

/// A box to draw and what to write on it.
#[derive(Clone, Debug)]
pub struct Label<'a> {
    /// Class name and score; Latin letters, others become `?`.
    pub text: &'a str,
    /// `[x_min, y_min, x_max, y_max]` in pixels of the picture, from its top left corner.
    pub bbox: [f32; 4],
    /// Chooses the colour.
    pub class_id: usize,
}

/// Draws boxes with their labels: all boxes first, then all labels, in the order given.
///
/// A label stands above its box, or where there is room: inside at the top, below, inside at the bottom. What lies outside
/// the picture is cut; a box that is wholly outside or not finite is left out, and so is text too large for a tiny picture.
pub fn boxes(image: &mut RgbImage, labels: &[Label<'_>]) {
    let bounds = Rect::of(image);
    let shorter = bounds.width().min(bounds.height());
    let thickness = (shorter / 240).max(2);
    let visible: Vec<(Rect, &Label<'_>)> = labels.iter().filter_map(|l| Some((to_rect(l.bbox, bounds)?, l))).collect();
    for (rect, label) in &visible {
        // A dark rim on both sides keeps the line visible on a ground of its own colour.
        let rim = (thickness / 3).max(1);
        frame(image, rect.grown(rim), thickness + 2 * rim, BLACK);
        frame(image, *rect, thickness, color(label.class_id));
    }
    let pen = Pen::new((shorter as f32 / 28.0).max(12.0));
    if 2 * pen.height() > bounds.height() {
        return;
    }
    let mut taken: Vec<Rect> = Vec::with_capacity(visible.len());
    for (rect, label) in &visible {
        let place = place(*rect, pen.width(label.text), pen.height(), bounds, &taken);
        let ground = color(label.class_id);
        fill(image, place, ground);
        pen.write(image, label.text, place, if luma(ground) < 100.0 { WHITE } else { BLACK });
        taken.push(place);
    }
}

/// The colour of a class.
fn color(class_id: usize) -> Rgb<u8> {
    COLORS[class_id % COLORS.len()]
}

/// Perceived brightness, 0 to 255 (ITU-R BT.601).
fn luma(Rgb([r, g, b]): Rgb<u8>) -> f32 {
    0.299 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b)
}

/// The first colour, covered by the second by that share.
fn mix(below: Rgb<u8>, above: Rgb<u8>, share: f32) -> Rgb<u8> {
    let mix = |below: u8, above: u8| (f32::from(below) + (f32::from(above) - f32::from(below)) * share).round() as u8;
    Rgb(std::array::from_fn(|c| mix(below.0[c], above.0[c])))
}

/// The box in whole pixels, at least one each way; nothing when it is not finite or does not touch the picture.
///
/// Coordinates are first brought near the picture: a model may answer with any number, and integers end.
fn to_rect(bbox: [f32; 4], bounds: Rect) -> Option<Rect> {
    if bbox.iter().any(|v| !v.is_finite()) {
        return None;
    }
    let along = |a: f32, b: f32, end: i32| {
        let margin = (end / 8 + 16) as f32;
        let near = |v: f32| v.round().clamp(-margin, end as f32 + margin) as i32;
        let (low, high) = (near(a.min(b)), near(a.max(b)));
        (low, high.max(low + 1))
    };
    let (left, right) = along(bbox[0], bbox[2], bounds.right);
    let (top, bottom) = along(bbox[1], bbox[3], bounds.bottom);
    let rect = Rect { left, top, right, bottom };
    rect.overlaps(bounds).then_some(rect)
}

/// Where a label of the given size goes: the first place along its box that is inside the picture and free, else the first
/// inside, else the box's top, pushed inside.
fn place(rect: Rect, width: i32, height: i32, bounds: Rect, taken: &[Rect]) -> Rect {
    let left = rect.left.min(bounds.right - width).max(0);
    let tops = [rect.top - height, rect.top, rect.bottom, rect.bottom - height];
    let at = |top: i32| Rect { left, top, right: left + width, bottom: top + height };
    let mut inside = tops.into_iter().filter(|&top| top >= 0 && top + height <= bounds.bottom).map(at);
    let first = inside.clone().next().unwrap_or_else(|| at(rect.top.min(bounds.bottom - height).max(0)));
    inside.find(|place| !taken.iter().any(|t| t.overlaps(*place))).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canvas(width: u32, height: u32) -> RgbImage {
        RgbImage::from_pixel(width, height, Rgb([90, 90, 90]))
    }

    fn label(bbox: [f32; 4]) -> Label<'static> {
        Label { text: "zebra 0.97", bbox, class_id: 5 }
    }

    #[test]
    fn the_box_is_drawn_where_it_is() {
        let mut image = canvas(480, 480);
        boxes(&mut image, &[label([100.0, 200.0, 300.0, 400.0])]);
        let vermilion = COLORS[5];
        for (x, y) in [(100, 200), (101, 300), (299, 300), (200, 399), (200, 200)] {
            assert_eq!(image.get_pixel(x, y), &vermilion, "{x}, {y}");
        }
        for (x, y) in [(200, 300), (90, 300), (310, 300), (200, 410)] {
            assert_eq!(image.get_pixel(x, y), &Rgb([90, 90, 90]), "{x}, {y}");
        }
    }

    #[test]
    fn the_label_stands_above_the_box_and_is_written() {
        let mut image = canvas(480, 480);
        boxes(&mut image, &[label([100.0, 200.0, 300.0, 400.0])]);
        let above = image.enumerate_pixels().filter(|(x, y, _)| *x >= 100 && (180..198).contains(y));
        let (mut ground, mut ink) = (0, 0);
        for (_, _, pixel) in above {
            ground += u32::from(*pixel == COLORS[5]);
            ink += u32::from(luma(*pixel) < 30.0);
        }
        assert!(ground > 400 && ink > 100, "ground {ground}, ink {ink}");
    }

    #[test]
    fn labels_of_one_place_do_not_cover_each_other() {
        let bounds = Rect { left: 0, top: 0, right: 400, bottom: 300 };
        let rect = Rect { left: 50, top: 60, right: 150, bottom: 160 };
        let mut taken = Vec::new();
        for _ in 0..4 {
            let next = place(rect, 80, 20, bounds, &taken);
            assert!(taken.iter().all(|t: &Rect| !t.overlaps(next)), "{next:?} {taken:?}");
            taken.push(next);
        }
        assert_eq!(place(rect, 80, 20, bounds, &taken), taken[0]);
    }

    #[test]
    fn boxes_outside_or_not_finite_leave_the_picture_alone() {
        for bbox in [
            [f32::NAN, 0.0, 10.0, 10.0],
            [0.0, 0.0, f32::INFINITY, 10.0],
            [500.0, 10.0, 600.0, 20.0],
            [10.0, -50.0, 20.0, -20.0],
            [1e30, 1e30, 2e30, 2e30],
        ] {
            let mut image = canvas(400, 300);
            boxes(&mut image, &[label(bbox)]);
            assert_eq!(image, canvas(400, 300), "{bbox:?}");
        }
    }

    #[test]
    fn no_box_on_no_picture_panics() {
        let corners = [f32::MIN, -1e9, -0.6, 0.0, 0.4, 1.0, 7.5, 63.0, 64.0, 1e9, f32::MAX, f32::NAN];
        let texts = ["", "?", "漢字 \u{0} \n\t 0.9", "Größe äöü €", &"long ".repeat(500)];
        for (width, height) in [(0, 0), (1, 1), (1, 200), (200, 1), (3, 2), (64, 64), (700, 31)] {
            for (n, &a) in corners.iter().enumerate() {
                for &b in &corners {
                    let mut image = canvas(width, height);
                    let text = texts[n % texts.len()];
                    boxes(&mut image, &[Label { text, bbox: [a, b, b, a], class_id: usize::MAX - n }, label([a, a, b, b])]);
                }
            }
        }
    }
}
