//! Augmentation: other pictures of the same objects, boxes moved with their pixels.
//!
//! Two recipes: [`DetrRecipe`], the original's for large sets of photos, and [`SmallRecipe`] for a few hundred pictures.
//! Every random number comes from [`generator`], that is from seed, epoch and image alone: which thread
//! augments which picture, and when, changes nothing.

use super::dataset::ImageRecord;
use super::preprocess::{Resize, Size, resize};
use crate::{Error, Result, boxes};
use image::{Rgb, RgbImage, imageops};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

/// ImageNet's mean colour: 0 after normalization, as the padding of a batch.
const MEAN_COLOUR: Rgb<u8> = Rgb([124, 116, 104]);

/// A picture with the boxes on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Annotated {
    /// The picture.
    pub image: RgbImage,
    /// `xyxy` in pixels of the picture, within it, none without area.
    pub boxes: Vec<[f32; 4]>,
    /// Training labels, one a box.
    pub labels: Vec<usize>,
}

impl Annotated {
    /// The objects of a record to train on, on its decoded picture. A picture that was scaled since it was annotated is taken,
    /// its boxes scaled likewise.
    ///
    /// # Errors
    /// [`Error::Format`] when the picture has another shape than was annotated: turned, or another picture.
    pub fn new(image: RgbImage, record: &ImageRecord) -> Result<Self> {
        let (width, height) = (record.width as f32, record.height as f32);
        let (x, y) = (image.width() as f32 / width, image.height() as f32 / height);
        // Rounding to whole pixels moves the shape by up to a pixel a side.
        let pixel = 1.0 / image.width().min(image.height()) as f32 + 1.0 / width.min(height);
        if (x / y - 1.0).abs() > 2.0 * pixel {
            let what = format!("annotated as {width} x {height} pixels, but it has {} x {}", image.width(), image.height());
            return Err(Error::format(&record.path, what));
        }
        let (boxes, labels) = record.trainable().map(|o| (scale(o.bbox, x, y), o.label)).unzip();
        Ok(Self { image, boxes, labels })
    }

    /// The boxes as DETR predicts them: `cxcywh`, normalized by the size of the picture.
    pub fn normalized_boxes(&self) -> Vec<[f32; 4]> {
        let (width, height) = (self.image.width() as f32, self.image.height() as f32);
        let normalized = |[x, y, w, h]: [f32; 4]| [x / width, y / height, w / width, h / height];
        self.boxes.iter().map(|&b| normalized(boxes::xyxy_to_cxcywh(b))).collect()
    }

    /// Left and right exchanged.
    fn flip_horizontally(&mut self) {
        imageops::flip_horizontal_in_place(&mut self.image);
        let width = self.image.width() as f32;
        for b in &mut self.boxes {
            *b = [width - b[2], b[1], width - b[0], b[3]];
        }
    }

    /// Top and bottom exchanged.
    fn flip_vertically(&mut self) {
        imageops::flip_vertical_in_place(&mut self.image);
        let height = self.image.height() as f32;
        for b in &mut self.boxes {
            *b = [b[0], height - b[3], b[2], height - b[1]];
        }
    }

    fn resize(&mut self, size: Size) {
        let from = Size::of(&self.image);
        if from == size {
            return;
        }
        self.image = resize(&self.image, size);
        let (x, y) = (size.width as f32 / from.width as f32, size.height as f32 / from.height as f32);
        for b in &mut self.boxes {
            // Clipped, because rounding may lift an edge off the picture.
            *b = boxes::clip(scale(*b, x, y), size.width as f32, size.height as f32);
        }
    }

    /// Cuts out a part; boxes are cut with it, and those of which no more than `min_visible` of the area is left are dropped.
    fn crop(&mut self, x: u32, y: u32, width: u32, height: u32, min_visible: f32) {
        self.image = imageops::crop_imm(&self.image, x, y, width, height).to_image();
        let (dx, dy) = (x as f32, y as f32);
        let cut = |[x0, y0, x1, y1]: [f32; 4]| boxes::clip([x0 - dx, y0 - dy, x1 - dx, y1 - dy], width as f32, height as f32);
        let all = self.boxes.iter().zip(&self.labels).map(|(&b, &label)| (cut(b), boxes::area(b), label));
        let kept = all.filter(|(cut, full, _)| boxes::area(*cut) > min_visible * full);
        (self.boxes, self.labels) = kept.map(|(cut, _, label)| (cut, label)).unzip();
    }

    /// Puts the picture into a larger one of the mean colour.
    fn paste(&mut self, size: Size, x: u32, y: u32) {
        let mut canvas = RgbImage::from_pixel(size.width as u32, size.height as u32, MEAN_COLOUR);
        imageops::replace(&mut canvas, &self.image, x.into(), y.into());
        self.image = canvas;
        let (x, y) = (x as f32, y as f32);
        for b in &mut self.boxes {
            *b = [b[0] + x, b[1] + y, b[2] + x, b[3] + y];
        }
    }
}

fn scale([x0, y0, x1, y1]: [f32; 4], x: f32, y: f32) -> [f32; 4] {
    [x0 * x, y0 * y, x1 * x, y1 * y]
}

/// The random numbers of one image in one epoch: the same on every machine, in every order.
pub fn generator(seed: u64, epoch: u64, image: u64) -> Pcg64 {
    // Each word goes through the generator before the next is added: near seeds must not give near numbers.
    let mixed = [epoch, image].into_iter().fold(seed, |state, word| Pcg64::seed_from_u64(state).random::<u64>() ^ word);
    Pcg64::seed_from_u64(mixed)
}

/// Of the numbers `low..=high`; `u32`, because `usize` would give other numbers on 32-bit machines.
fn whole(rng: &mut Pcg64, low: u32, high: u32) -> u32 {
    rng.random_range(low..=high)
}

/// How pictures are varied in training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    /// See [`DetrRecipe`].
    Detr(DetrRecipe),
    /// See [`SmallRecipe`].
    Small(SmallRecipe),
}

impl Recipe {
    /// Passes when the numbers make sense.
    ///
    /// # Errors
    /// [`Error::Config`] for the first that does not.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Detr(recipe) => recipe.check(),
            Self::Small(recipe) => recipe.check(),
        }
    }

    /// A varied picture; its size depends on the recipe.
    pub fn apply(&self, picture: Annotated, rng: &mut Pcg64) -> Annotated {
        match self {
            Self::Detr(recipe) => recipe.apply(picture, rng),
            Self::Small(recipe) => recipe.apply(picture, rng),
        }
    }
}

/// DETR's augmentation: a flip, then, one half of the time each, a resize, or a resize, a crop of random size and a resize.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DetrRecipe {
    /// Lengths of the shorter side, in pixels; one is chosen.
    pub shorter: Vec<usize>,
    /// The most that the longer side gets, in pixels.
    pub longer: usize,
    /// Lengths of the shorter side before the crop; the longer side is not limited.
    pub before_crop: Vec<usize>,
    /// The least and the most that a side of the crop has, in pixels.
    pub crop: (u32, u32),
    /// Probability of exchanging left and right.
    pub flip: f64,
}

impl Default for DetrRecipe {
    /// The original's numbers: 480, 512, …, 800 of at most 1333; crops of 384 to 600 from 400, 500 or 600.
    fn default() -> Self {
        Self { shorter: (480..=800).step_by(32).collect(), longer: 1333, before_crop: vec![400, 500, 600], crop: (384, 600), flip: 0.5 }
    }
}

impl DetrRecipe {
    fn check(&self) -> Result<()> {
        let sides = |name: &str, sides: &[usize]| match sides {
            [] => Err(Error::Config(format!("augmentation: {name} needs at least one length"))),
            _ if sides.contains(&0) => Err(Error::Config(format!("augmentation: {name} has a length of 0"))),
            _ => Ok(()),
        };
        sides("shorter", &self.shorter)?;
        sides("before_crop", &self.before_crop)?;
        sides("longer", &[self.longer])?;
        if self.crop.0 == 0 || self.crop.0 > self.crop.1 {
            return Err(Error::Config(format!("augmentation: crop goes from {} to {} pixels", self.crop.0, self.crop.1)));
        }
        probability("flip", self.flip)
    }

    fn apply(&self, mut picture: Annotated, rng: &mut Pcg64) -> Annotated {
        if rng.random_bool(self.flip) {
            picture.flip_horizontally();
        }
        if rng.random_bool(0.5) {
            let shorter = choice(rng, &self.before_crop);
            picture.resize(Resize { shorter, longer: usize::MAX }.size(Size::of(&picture.image)));
            self.crop(&mut picture, rng);
        }
        let shorter = choice(rng, &self.shorter);
        picture.resize(Resize { shorter, longer: self.longer }.size(Size::of(&picture.image)));
        picture
    }

    fn crop(&self, picture: &mut Annotated, rng: &mut Pcg64) {
        let (least, most) = self.crop;
        let mut side = |full: u32| whole(rng, least.min(full), most.min(full));
        let (width, height) = (side(picture.image.width()), side(picture.image.height()));
        let (x, y) = (whole(rng, 0, picture.image.width() - width), whole(rng, 0, picture.image.height() - height));
        picture.crop(x, y, width, height, 0.0);
    }
}

/// A plain recipe for small sets: flips both ways, a part of the picture or the picture in a larger field, other colours. The
/// result has the size that the whole picture gets from `resize`, whatever part is shown: few sizes stay few.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SmallRecipe {
    /// Length of the shorter side, in pixels.
    pub shorter: usize,
    /// The most that the longer side gets, in pixels.
    pub longer: usize,
    /// Probability of exchanging left and right.
    pub flip_horizontal: f64,
    /// Probability of exchanging top and bottom.
    pub flip_vertical: f64,
    /// The least and the most of a side that is shown: 0.6 is a crop of 0.6 times both sides, 1.1 the whole picture with a margin
    /// of the mean colour.
    pub shown: (f64, f64),
    /// Cut objects are kept when more than this part of their box is left.
    pub min_visible: f32,
    /// Contrast is multiplied by up to 1 ± this.
    pub contrast: f64,
    /// Brightness is multiplied by up to 1 ± this.
    pub brightness: f64,
    /// Each of red, green and blue is shifted by up to ± this, of 1.
    pub colour: f64,
}

impl Default for SmallRecipe {
    fn default() -> Self {
        Self {
            shorter: 480,
            longer: 640,
            flip_horizontal: 0.5,
            flip_vertical: 0.5,
            shown: (0.6, 1.1),
            min_visible: 0.35,
            contrast: 0.2,
            brightness: 0.2,
            colour: 0.08,
        }
    }
}

impl SmallRecipe {
    fn check(&self) -> Result<()> {
        if self.shorter == 0 || self.longer < self.shorter {
            return Err(Error::Config(format!("augmentation: shorter {} and longer {} pixels", self.shorter, self.longer)));
        }
        let (least, most) = self.shown;
        if !(0.05..=4.0).contains(&least) || !(least..=4.0).contains(&most) {
            return Err(Error::Config(format!("augmentation: shown goes from {least} to {most}; expected 0.05 to 4, rising")));
        }
        probability("min_visible", self.min_visible.into())?;
        probability("flip_horizontal", self.flip_horizontal)?;
        probability("flip_vertical", self.flip_vertical)?;
        probability("contrast", self.contrast)?;
        probability("brightness", self.brightness)?;
        probability("colour", self.colour)
    }

    fn apply(&self, mut picture: Annotated, rng: &mut Pcg64) -> Annotated {
        let size = Resize { shorter: self.shorter, longer: self.longer }.size(Size::of(&picture.image));
        if rng.random_bool(self.flip_horizontal) {
            picture.flip_horizontally();
        }
        if rng.random_bool(self.flip_vertical) {
            picture.flip_vertically();
        }
        let shown = uniform(rng, self.shown.0, self.shown.1);
        let of = |side: u32, factor: f64| (f64::from(side) * factor).round().clamp(1.0, f64::from(side)) as u32;
        if shown <= 1.0 {
            let (full_width, full_height) = picture.image.dimensions();
            let (width, height) = (of(full_width, shown), of(full_height, shown));
            let (x, y) = (whole(rng, 0, full_width - width), whole(rng, 0, full_height - height));
            picture.crop(x, y, width, height, self.min_visible);
            picture.resize(size);
        } else {
            let (width, height) = (of(size.width as u32, 1.0 / shown), of(size.height as u32, 1.0 / shown));
            picture.resize(Size { width: width as usize, height: height as usize });
            let (x, y) = (whole(rng, 0, size.width as u32 - width), whole(rng, 0, size.height as u32 - height));
            picture.paste(size, x, y);
        }
        self.recolour(&mut picture.image, rng);
        picture
    }

    /// `((v − ½) · contrast + ½) · brightness + shift`, by a table for each channel.
    fn recolour(&self, image: &mut RgbImage, rng: &mut Pcg64) {
        let contrast = uniform(rng, 1.0 - self.contrast, 1.0 + self.contrast);
        let brightness = uniform(rng, 1.0 - self.brightness, 1.0 + self.brightness);
        let tables: [[u8; 256]; 3] = std::array::from_fn(|_| {
            let shift = uniform(rng, -self.colour, self.colour);
            let value = |v: f64| ((v - 0.5) * contrast + 0.5) * brightness + shift;
            std::array::from_fn(|v| (value(v as f64 / 255.0) * 255.0).round().clamp(0.0, 255.0) as u8)
        });
        for pixel in image.pixels_mut() {
            for (v, table) in pixel.0.iter_mut().zip(&tables) {
                *v = table[usize::from(*v)];
            }
        }
    }
}

fn choice(rng: &mut Pcg64, from: &[usize]) -> usize {
    from[whole(rng, 0, from.len() as u32 - 1) as usize]
}

/// Between `low` and `high`; drawn even where they are equal, so that what follows does not depend on it.
fn uniform(rng: &mut Pcg64, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

fn probability(name: &str, value: f64) -> Result<()> {
    if (0.0..=1.0).contains(&value) { Ok(()) } else { Err(Error::Config(format!("augmentation: {name} is {value}; expected 0 to 1"))) }
}
