//! What models attend to and what they find, drawn side by side.

use super::{Eye, Seen, label};
use qdetr::data::image::RgbImage;
use qdetr::data::preprocess::{Size, resize};
use qdetr::data::{Dataset, ImageRecord};
use qdetr::draw::{self, Heat, Label, Panel, grid};
use qdetr::models::Detection;

/// Width of a picture in a row, unless it is smaller itself.
const WIDTH: usize = 480;

/// A picture as it stands in a row.
struct Small {
    image: RgbImage,
    /// Its pixels for one of the picture.
    scale: f32,
}

/// A box in pixels of the picture, and what is written on it.
struct Boxed {
    text: String,
    class_id: usize,
    bbox: [f32; 4],
}

impl Small {
    fn of(image: &RgbImage) -> Self {
        let Size { width, height } = Size::of(image);
        let scale = (WIDTH as f32 / width as f32).min(1.0);
        let side = |length: usize| ((length as f32 * scale).round() as usize).max(1);
        Self { image: resize(image, Size { width: side(width), height: side(height) }), scale }
    }

    /// A copy with boxes.
    fn with(&self, boxes: &[Boxed]) -> RgbImage {
        let mut image = self.image.clone();
        let labels = boxes.iter().map(|b| Label { text: &b.text, bbox: b.bbox.map(|v| v * self.scale), class_id: b.class_id });
        draw::boxes(&mut image, &labels.collect::<Vec<_>>());
        image
    }
}

/// Queries down, models across, each with its own: the attention of the last layer, and the box that comes of it.
pub(super) fn attention(image: &RgbImage, eyes: &[Eye], seen: &[Seen], queries: &[Vec<usize>]) -> RgbImage {
    let small = Small::of(image);
    let panel = |((eye, seen), &query): ((&Eye, &Seen), &usize)| {
        let mut hot = Small { image: small.image.clone(), scale: small.scale };
        let map = seen.look.map(0, query);
        let cell = seen.cell.map(|side| side * small.scale);
        draw::heat(&mut hot.image, Heat { values: &map, columns: seen.look.cells[1], cell });
        let title = format!("{}, query {query}", eye.title);
        Panel { title, image: hot.with(&[boxed(eye, &seen.by_query[query])]) }
    };
    let row = |row: &Vec<usize>| eyes.iter().zip(seen).zip(row).map(panel).collect();
    grid(&queries.iter().map(row).collect::<Vec<Vec<Panel>>>())
}

/// What is there, where it is known, and what each model found.
pub(super) fn detections(image: &RgbImage, eyes: &[Eye], seen: &[Seen], truth: Option<(&Dataset, &ImageRecord)>) -> RgbImage {
    let small = Small::of(image);
    let annotated = truth.map(|(set, record)| {
        let names = set.categories.names();
        let boxes: Vec<_> =
            record.objects.iter().map(|o| Boxed { text: names[o.label].clone(), class_id: o.label, bbox: o.bbox }).collect();
        Panel { title: format!("Annotated: {}", boxes.len()), image: small.with(&boxes) }
    });
    let panel = |(eye, seen): (&Eye, &Seen)| {
        let boxes: Vec<_> = seen.detections.iter().map(|found| boxed(eye, found)).collect();
        Panel { title: format!("{}: {}", eye.title, boxes.len()), image: small.with(&boxes) }
    };
    grid(&[annotated.into_iter().chain(eyes.iter().zip(seen).map(panel)).collect()])
}

fn boxed(eye: &Eye, found: &Detection) -> Boxed {
    Boxed { text: label(eye.explainer.config(), found), class_id: found.label, bbox: found.bbox }
}
