//! The pictures of a batch as a network is given them.
//!
//! Preprocessing leaves bytes, three a pixel, and the size of each picture: the device normalizes them ([`Normalize`]) and knows padding
//! from the sizes, so that no more is uploaded. A user may also give floats, which he has normalized, and a mask. Both are the same to a
//! network, to the bit: [`Pictures::normalized`] and [`Pictures::mask`] are the one as the other.
//!
//! [`Normalize`]: crate::kernels::normalize::Normalize

use super::preprocess::{normalization_table, normalize_row};
use crate::tensor::{Host, TensorType};
use rayon::prelude::*;

/// As what a network is given its pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Entry {
    /// Bytes and sizes: inputs `pixel_bytes` i8 `[B, H, W, 3]`, of which each stands for 0 to 255, and `picture_sizes` u32 `[B, 2]`.
    #[default]
    Bytes,
    /// Floats and a mask: inputs `pixel_values` f32 `[B, H, W, 3]`, zero on padding, and `pixel_mask` u32 `[B, H, W]`, 1 on pictures.
    Floats,
}

impl Entry {
    /// Names of the inputs: the pixels, and what tells them from padding.
    pub fn names(self) -> [&'static str; 2] {
        match self {
            Self::Bytes => ["pixel_bytes", "picture_sizes"],
            Self::Floats => ["pixel_values", "pixel_mask"],
        }
    }
}

/// The pictures of a batch, padded to one size at the bottom and the right.
#[derive(Clone, Debug, PartialEq)]
pub struct Pictures {
    /// As what they are given.
    entry: Entry,
    /// What the inputs of the entry hold.
    values: [Host; 2],
}

impl Pictures {
    /// From bytes `[B, H, W, 3]`, zero in the padding, and height and width of each picture, `[B, 2]`.
    pub(super) fn bytes(bytes: Host, sizes: Host) -> Self {
        Self { entry: Entry::Bytes, values: [bytes, sizes] }
    }

    /// From normalized pixels f32 `[B, H, W, 3]`, zero in the padding, and a mask u32 `[B, H, W]`, 1 on pictures.
    ///
    /// # Panics
    /// When the mask is not of the pixels' size.
    #[track_caller]
    pub fn floats(pixels: Host, mask: Host) -> Self {
        let [images, height, width, _] = pixels.shape().bhwc();
        assert_eq!(mask.shape().dims(), [images, height, width], "the mask of pixels {}", pixels.ty());
        Self { entry: Entry::Floats, values: [pixels, mask] }
    }

    /// As what they are given.
    pub fn entry(&self) -> Entry {
        self.entry
    }

    /// Number of pictures, and the rows and columns they are padded to.
    pub fn dims(&self) -> [usize; 3] {
        let [images, height, width, _] = self.values[0].shape().bhwc();
        [images, height, width]
    }

    /// The inputs of a network, by their names.
    pub fn inputs(&self) -> [(&'static str, &Host); 2] {
        let [pixels, padding] = &self.values;
        let names = self.entry.names();
        [(names[0], pixels), (names[1], padding)]
    }

    /// One of them, padded as it is.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn single(&self, picture: usize) -> Self {
        Self { values: self.values.each_ref().map(|host| part(host, picture)), ..*self }
    }

    /// The pixels f32 `[B, H, W, 3]`, normalized, zero in the padding.
    pub fn normalized(&self) -> Host {
        let [pixels, sizes] = &self.values;
        if self.entry == Entry::Floats {
            return pixels.clone();
        }
        let ([_, height, width], sizes, table) = (self.dims(), sizes.as_u32(), normalization_table());
        let bytes: &[u8] = bytemuck::cast_slice(pixels.as_i8());
        let mut floats = vec![0f32; bytes.len()];
        floats.par_chunks_exact_mut(width * 3).zip(bytes.par_chunks_exact(width * 3)).enumerate().for_each(|(row, (floats, bytes))| {
            let valid = 3 * valid_in_row(sizes, row, height);
            normalize_row(&bytes[..valid], &table, &mut floats[..valid]);
        });
        Host::f32(pixels.shape().dims(), floats)
    }

    /// The mask u32 `[B, H, W]`: 1 where a picture is.
    pub fn mask(&self) -> Host {
        let [_, padding] = &self.values;
        if self.entry == Entry::Floats {
            return padding.clone();
        }
        let [images, height, width] = self.dims();
        let mut mask = vec![0u32; images * height * width];
        let rows = mask.par_chunks_exact_mut(width).enumerate();
        rows.for_each(|(row, mask)| mask[..valid_in_row(padding.as_u32(), row, height)].fill(1));
        Host::u32([images, height, width], mask)
    }
}

/// Pixels of a picture in a row of a batch `height` rows high, counted from its first picture on.
fn valid_in_row(sizes: &[u32], row: usize, height: usize) -> usize {
    let size = &sizes[2 * (row / height)..][..2];
    if row % height < size[0] as usize { size[1] as usize } else { 0 }
}

/// One of the first dimension.
fn part(host: &Host, index: usize) -> Host {
    let mut dims = host.shape().dims().to_vec();
    dims[0] = 1;
    let ty = TensorType::new(dims, host.dtype());
    let bytes = ty.shape.len() * ty.dtype.size();
    Host::from_bytes(ty, &host.as_bytes()[index * bytes..][..bytes])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::preprocess::{Batch, Sample, Size};
    use image::{Rgb, RgbImage};

    #[test]
    fn one_of_a_batch_is_what_it_was_there() {
        let sample = |(width, height)| Sample {
            image: RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 7])),
            original: Size { width: 1, height: 1 },
        };
        let bytes = Batch::new(&[(5, 2), (3, 4), (1, 1)].map(sample), None).unwrap().pictures;
        let floats = Pictures::floats(bytes.normalized(), bytes.mask());
        for picture in 0..3 {
            let (one, other) = (bytes.single(picture), floats.single(picture));
            assert_eq!((one.dims(), other.dims()), ([1, 4, 5], [1, 4, 5]));
            assert!(one.normalized() == other.normalized() && one.mask() == other.mask());
        }
        assert_eq!(bytes.single(1).mask().as_u32().iter().sum::<u32>(), 12);
    }
}
