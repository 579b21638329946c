//! Pillow's antialiased bilinear resampling, bit for bit.
//!
//! A model sees what its training saw, and that was `Image.resize(size, BILINEAR)` of Pillow: a triangle filter that widens
//! with the down-scale factor, in two passes (rows, then columns) with 8-bit pixels between them. Weights are computed in
//! `f64`, normalized, and rounded to 22 bits (Pillow's `PRECISION_BITS`, 32 − 8 − 2); sums are 32-bit integers.
//!
//! Since version 13 Pillow does the columns first where the height shrinks much more than the width. A model's resize keeps
//! the aspect, and its training is older: here rows are always first, which then differs by a grey level at most.

use super::preprocess::Size;
use image::RgbImage;
use rayon::prelude::*;
use std::ops::Range;

const PRECISION_BITS: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION_BITS - 1);
const CHANNELS: usize = 3;

/// The filter along one axis: for every output position, where its input window begins and the window's weights.
struct Taps {
    starts: Vec<usize>,
    counts: Vec<usize>,
    weights: Vec<i32>,
    stride: usize,
}

impl Taps {
    /// The taps of the output positions in `window`, when `input` positions become `output`.
    fn new(input: usize, output: usize, window: Range<usize>) -> Self {
        let scale = input as f64 / output as f64;
        let support = scale.max(1.0);
        let stride = support.ceil() as usize * 2 + 1;
        let n = window.len();
        let mut taps = Self { starts: Vec::with_capacity(n), counts: Vec::with_capacity(n), weights: vec![0; n * stride], stride };
        let mut window_weights = vec![0f64; stride];
        for (position, weights) in window.zip(taps.weights.chunks_exact_mut(stride)) {
            let center = (position as f64 + 0.5) * scale;
            // `as usize` cuts toward zero and sends negatives to 0: C's cast and clamp.
            let start = (center - support + 0.5) as usize;
            let count = ((center + support + 0.5) as usize).min(input) - start;
            for (i, w) in window_weights[..count].iter_mut().enumerate() {
                *w = (1.0 - (((i + start) as f64 - center + 0.5) * (1.0 / support)).abs()).max(0.0);
            }
            let sum: f64 = window_weights[..count].iter().sum();
            for (quantized, w) in weights.iter_mut().zip(&window_weights[..count]) {
                *quantized = (w / sum * f64::from(1 << PRECISION_BITS) + 0.5) as i32;
            }
            taps.starts.push(start);
            taps.counts.push(count);
        }
        taps
    }

    fn len(&self) -> usize {
        self.starts.len()
    }

    /// The input window of output `i` and its weights, one an input position.
    fn get(&self, i: usize) -> (Range<usize>, &[i32]) {
        let (start, count) = (self.starts[i], self.counts[i]);
        (start..start + count, &self.weights[i * self.stride..][..count])
    }

    /// The input positions that any output needs.
    fn needed(&self) -> Range<usize> {
        let last = self.len() - 1;
        self.starts[0]..self.starts[last] + self.counts[last]
    }
}

/// The part `columns` × `rows` of `image` resized to `size`. Only what that part needs is computed.
///
/// # Panics
/// When the size or the part is empty, or the part leaves the size.
pub(super) fn resize_part(image: &RgbImage, size: Size, columns: Range<usize>, rows: Range<usize>) -> RgbImage {
    let inside = !columns.is_empty() && !rows.is_empty() && columns.end <= size.width && rows.end <= size.height;
    assert!(inside, "cannot cut columns {columns:?}, rows {rows:?} out of {size}");
    let (width, height) = (columns.len(), rows.len());
    let (in_width, in_height) = (image.width() as usize, image.height() as usize);
    let vertical = Taps::new(in_height, size.height, rows);
    let needed = vertical.needed();
    let input = &image.as_raw()[needed.start * in_width * CHANNELS..needed.end * in_width * CHANNELS];
    let narrow = if size.width == in_width {
        crop_rows(input, in_width, columns)
    } else {
        resize_rows(input, in_width, &Taps::new(in_width, size.width, columns))
    };
    let out = if size.height == in_height { narrow } else { resize_columns(&narrow, width, needed.start, &vertical) };
    RgbImage::from_raw(width as u32, height as u32, out).expect("three bytes a pixel")
}

fn crop_rows(input: &[u8], in_width: usize, columns: Range<usize>) -> Vec<u8> {
    let kept = columns.start * CHANNELS..columns.end * CHANNELS;
    input.chunks_exact(in_width * CHANNELS).flat_map(|row| &row[kept.clone()]).copied().collect()
}

/// The first pass: every row of `input` on its own.
fn resize_rows(input: &[u8], in_width: usize, taps: &Taps) -> Vec<u8> {
    let rows = input.len() / (in_width * CHANNELS);
    let mut out = vec![0; rows * taps.len() * CHANNELS];
    out.par_chunks_exact_mut(taps.len() * CHANNELS).zip(input.par_chunks_exact(in_width * CHANNELS)).for_each(|(out, row)| {
        for (i, pixel) in out.chunks_exact_mut(CHANNELS).enumerate() {
            let (window, weights) = taps.get(i);
            let mut sums = [HALF; CHANNELS];
            for (input, &weight) in row[window.start * CHANNELS..window.end * CHANNELS].chunks_exact(CHANNELS).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(input) {
                    *sum += i32::from(value) * weight;
                }
            }
            pixel.copy_from_slice(&sums.map(to_u8));
        }
    });
    out
}

/// The second pass: output rows as weighted sums of the rows of `input`, whose first is row `first` of the picture.
fn resize_columns(input: &[u8], width: usize, first: usize, taps: &Taps) -> Vec<u8> {
    let row_len = width * CHANNELS;
    let mut out = vec![0; taps.len() * row_len];
    out.par_chunks_exact_mut(row_len).enumerate().for_each_init(
        || vec![0; row_len],
        |sums, (i, out)| {
            sums.fill(HALF);
            let (window, weights) = taps.get(i);
            for (row, &weight) in input[(window.start - first) * row_len..].chunks_exact(row_len).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(value) * weight;
                }
            }
            for (out, &sum) in out.iter_mut().zip(sums.iter()) {
                *out = to_u8(sum);
            }
        },
    );
    out
}

fn to_u8(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}
