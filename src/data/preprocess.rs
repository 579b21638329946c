//! From a picture to what a DETR model reads.
//!
//! As the original implementation's evaluation does: resize so that the shorter side has 800 pixels and the longer at most
//! 1333 ([`Resize`]), pad a batch at the bottom and the right, and remember the size of each picture in it ([`Batch`]); divide by 255,
//! subtract ImageNet's mean and divide by its standard deviation, with zeros in the padding. This last step, whose floats are four times
//! the bytes, is the device's: it looks every byte up in the [`normalization_table`] that is made here.
//!
//! The resized picture equals Pillow's bit for bit, the normalized values equal torchvision's.

use super::pictures::Pictures;
use super::resample::resize_part;
use crate::graph::check::noise;
use crate::tensor::{Host, Shape};
use crate::{Error, Result};
use image::RgbImage;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Mean of ImageNet's red, green and blue, of 1.
pub const MEAN: [f32; 3] = [0.485, 0.456, 0.406];

/// Standard deviation of ImageNet's red, green and blue, of 1.
pub const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// Pixels in a row.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
}

impl Size {
    /// The size of a picture.
    pub fn of(image: &RgbImage) -> Self {
        Self { width: image.width() as usize, height: image.height() as usize }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {}", self.width, self.height)
    }
}

/// How large a picture is made before a model sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// Wanted length of the shorter side, in pixels; at least 1.
    pub shorter: usize,
    /// Length that the longer side should not exceed, in pixels; at least `shorter`.
    pub longer: usize,
}

impl Resize {
    /// DETR's evaluation: 800 and 1333.
    pub const DETR: Self = Self { shorter: 800, longer: 1333 };

    /// The size that a picture of size `from` gets (`get_size_with_aspect_ratio` of the original `datasets/transforms.py`).
    ///
    /// If the longer side would come out above the limit, the shorter becomes `round(longer · min / max)`, half to even; the
    /// other side is cut, not rounded, to whole pixels. Because the rounded side is the one that sets the scale, the longer
    /// can exceed the limit: by a pixel in photos, by up to a factor of two in strips (20000 × 10 becomes 2000 × 1).
    /// Where the original rounds the shorter side to nothing, we take one pixel by `longer`.
    ///
    /// ```
    /// use qdetr::data::preprocess::{Resize, Size};
    /// let size = |width, height| Resize::DETR.size(Size { width, height });
    /// assert_eq!(size(640, 480), Size { width: 1066, height: 800 });
    /// assert_eq!(size(500, 1000), Size { width: 666, height: 1332 });
    /// assert_eq!(size(1, 1), Size { width: 800, height: 800 });
    /// ```
    pub fn size(&self, from: Size) -> Size {
        let (short, long) = (from.width.min(from.height) as f64, from.width.max(from.height) as f64);
        let mut shorter = self.shorter;
        if long / short * shorter as f64 > self.longer as f64 {
            shorter = (self.longer as f64 * short / long).round_ties_even() as usize;
        }
        let other = if shorter == 0 { self.longer } else { (shorter as f64 * long / short) as usize };
        let shorter = shorter.max(1);
        if from.width < from.height { Size { width: shorter, height: other } } else { Size { width: other, height: shorter } }
    }

    /// The picture at the size that [`Resize::size`] says, with Pillow's antialiased bilinear filter.
    pub fn apply(&self, image: &RgbImage) -> RgbImage {
        resize(image, self.size(Size::of(image)))
    }
}

/// Resizes a picture with Pillow's antialiased bilinear filter, bit for bit.
///
/// # Panics
/// When the size is empty.
pub fn resize(image: &RgbImage, size: Size) -> RgbImage {
    resize_part(image, size, 0..size.width, 0..size.height)
}

/// What a classifier trained on ImageNet is shown: shorter side 256, then the 224 × 224 pixels in the middle.
///
/// As torchvision's `Resize(256)`, `CenterCrop(224)`; only the pixels that are kept are computed.
pub fn imagenet_view(image: &RgbImage) -> RgbImage {
    const CROP: usize = 224;
    let size = Resize { shorter: 256, longer: usize::MAX }.size(Size::of(image));
    let middle = |length: usize| {
        let start = ((length - CROP) as f64 / 2.0).round_ties_even() as usize;
        start..start + CROP
    };
    resize_part(image, size, middle(size.width), middle(size.height))
}

/// One picture, resized.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The resized picture.
    pub image: RgbImage,
    /// Size of the picture before it was resized: boxes are reported in its pixels.
    pub original: Size,
}

impl Sample {
    /// Resizes a picture.
    pub fn new(image: &RgbImage, resize: Resize) -> Self {
        Self { original: Size::of(image), image: resize.apply(image) }
    }
}

/// Pictures of different sizes as one input of a model.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The pictures, padded.
    pub pictures: Pictures,
    /// Sizes of the pictures before they were resized.
    pub original: Vec<Size>,
    /// Sizes of the pictures in `pictures`.
    pub resized: Vec<Size>,
}

impl Batch {
    /// Pads the samples at the bottom and the right to `padded`, or, without it, to the largest width and the largest height among
    /// them.
    ///
    /// # Errors
    /// [`Error::Config`] when the batch has more elements than a shader can index, 2³².
    ///
    /// # Panics
    /// Without samples, and when a sample is larger than `padded`.
    #[track_caller]
    pub fn new(samples: &[Sample], padded: Option<Size>) -> Result<Self> {
        assert!(!samples.is_empty(), "a batch needs at least one sample");
        let resized: Vec<Size> = samples.iter().map(|s| Size::of(&s.image)).collect();
        let Size { width, height } = padded.unwrap_or_else(|| bounds(&resized));
        for size in &resized {
            assert!(size.width <= width && size.height <= height, "a sample of {size} does not fit into {width} × {height}");
        }
        let shape = [samples.len(), height, width, 3];
        if Shape::checked(&shape).is_none() {
            let (n, size) = (samples.len(), Size { width, height });
            return Err(Error::Config(format!("{n} pictures padded to {size} exceed 2^32 elements: use a smaller batch")));
        }
        let mut bytes = vec![0i8; shape.iter().product()];
        bytes.par_chunks_exact_mut(width * 3).enumerate().for_each(|(i, bytes)| {
            let image = &samples[i / height].image;
            let row_len = image.width() as usize * 3;
            if let Some(row) = image.as_raw().chunks_exact(row_len).nth(i % height) {
                bytes[..row_len].copy_from_slice(bytemuck::cast_slice(row));
            }
        });
        let sizes = resized.iter().flat_map(|size| [size.height as u32, size.width as u32]).collect();
        Ok(Self {
            pictures: Pictures::bytes(Host::i8(shape, bytes), Host::u32([samples.len(), 2], sizes)),
            original: samples.iter().map(|s| s.original).collect(),
            resized,
        })
    }

    /// Pictures of noise that fill the batch, for measurements.
    ///
    /// # Errors
    /// As [`Batch::new`].
    pub fn noise(images: usize, size: Size) -> Result<Self> {
        let value = |v: &f32| ((v + 1.0) * 127.5) as u8;
        let picture = |i: usize| {
            let bytes = noise([size.height, size.width, 3], i as u64).to_f32().iter().map(value).collect();
            let image = RgbImage::from_raw(size.width as u32, size.height as u32, bytes).expect("as many bytes");
            Sample { image, original: size }
        };
        Self::new(&(0..images).map(picture).collect::<Vec<_>>(), None)
    }
}

/// The smallest size that holds all of `sizes`.
fn bounds(sizes: &[Size]) -> Size {
    let largest = |side: fn(&Size) -> usize| sizes.iter().map(side).max().unwrap_or(0);
    Size { width: largest(|s| s.width), height: largest(|s| s.height) }
}

/// The normalized value of each byte in each channel: `(byte / 255 − mean) / std`, rounded to `f32` at every step as PyTorch's.
pub fn normalization_table() -> [[f32; 3]; 256] {
    std::array::from_fn(|byte| std::array::from_fn(|c| (byte as f32 / 255.0 - MEAN[c]) / STD[c]))
}

/// Looks the bytes of some pixels up.
pub(super) fn normalize_row(row: &[u8], table: &[[f32; 3]; 256], out: &mut [f32]) {
    for (out, pixel) in out.chunks_exact_mut(3).zip(row.chunks_exact(3)) {
        for c in 0..3 {
            out[c] = table[usize::from(pixel[c])][c];
        }
    }
}
