//! Where a token is: DETR's sine position encoding, the mask of valid cells that it is made from, and how large the image in a padded
//! batch is. Both come from a mask of all pixels or, without it, from the pictures' sizes: see [`Padding`].
//!
//! With `y` and `x` the number of valid pixels up to and including a pixel, along its column and its row, divided by the
//! number in the whole line (+ 1e-6) and times 2π: channels `2i` and `2i + 1` of the first C/2 are
//! `sin` and `cos` of `y / 10000^(2i / (C/2))`, those of the second half the same of `x`
//! (DETR's `PositionEmbeddingSine` with `normalize=True`).
//!
//! **Tried and left** (H100, 2026-11-26): an invocation for four pairs of channels, which counts once: 17 µs in place of 22 for eight pictures of
//! DETR-R50, but 10.6 in place of 8.7 for one.

use super::softmax::test_mask;
use crate::gpu::shader::Source;
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::Case;
use crate::graph::{Graph, Op, Var};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

const GROUP: usize = 256;

/// mask `u32[B, h, w]` (1 = valid) to `[B, h·w, C]`.
#[derive(Clone, Copy, Debug)]
pub struct SinePosition {
    /// C, a multiple of 4.
    pub channels: usize,
    /// Element type of the result.
    pub to: DType,
}

impl Op for SinePosition {
    fn name(&self) -> &'static str {
        "sine_position"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [mask] = inputs else { panic!("sine_position: wants one input, found {}", inputs.len()) };
        let [b, h, w] = mask.shape.blc();
        let fits = mask.dtype == DType::U32 && self.to.is_float() && self.channels > 0 && self.channels.is_multiple_of(4);
        assert!(fits, "sine_position: wants a mask u32[B, h, w] and a multiple of 4 channels, found {mask}, {self:?}");
        vec![TensorType::new([b, h * w, self.channels], self.to)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let mask = inputs[0].as_u32();
        let [batch, height, width] = inputs[0].shape().blc();
        let frequencies = self.channels / 4;
        let mut y = Vec::with_capacity(outputs[0].shape.len());
        for token in 0..batch * height * width {
            let (image, row, column) = (token / (height * width), token / width % height, token % width);
            let valid = |row: usize, column: usize| f32::from(mask[(image * height + row) * width + column] != 0);
            let down = |end: usize| (0..end).map(|i| valid(i, column)).sum::<f32>();
            let right = |end: usize| (0..end).map(|i| valid(row, i)).sum::<f32>();
            for (part, all) in [(down(row + 1), down(height)), (right(column + 1), right(width))] {
                let position = part / (all + 1e-6) * std::f32::consts::TAU;
                for i in 0..frequencies {
                    let angle = position / 10_000f32.powf(i as f32 / frequencies as f32);
                    y.extend([angle.sin(), angle.cos()]);
                }
            }
        }
        vec![Host::from_f32(outputs[0], y)]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let ([_, height, width], pairs) = (inputs[0].shape.blc(), outputs[0].shape.len() / 2);
        let kernel = Dispatch::new(wgsl!("position/sine.wgsl"), 1)
            .element("element_y", self.to)
            .constant("GROUP", GROUP)
            .params(Words::of([pairs, height, width, self.channels / 4]))
            .over_items(pairs, GROUP);
        vec![kernel]
    }
}

/// What tells the pictures of a batch from their padding, at the bottom and the right.
#[derive(Clone, Copy, Debug)]
pub enum Padding {
    /// A mask `u32[B, H, W]`, 1 on pictures.
    Mask,
    /// Height and width of each picture, `u32[B, 2]`, in a batch of so many rows and columns.
    Sizes {
        /// Rows of pixels.
        height: usize,
        /// Columns of pixels.
        width: usize,
    },
}

impl Padding {
    /// Images, rows and columns of the batch.
    #[track_caller]
    fn batch(self, op: &str, inputs: &[TensorType]) -> [usize; 3] {
        let [source] = inputs else { panic!("{op}: wants one input, found {}", inputs.len()) };
        assert!(source.dtype == DType::U32, "{op}: wants a mask u32[B, H, W] or sizes u32[B, 2], found {source}");
        match self {
            Self::Mask => source.shape.blc(),
            Self::Sizes { height, width } => {
                let dims = source.shape.dims();
                assert!(dims.len() == 2 && dims[1] == 2, "{op}: wants sizes u32[B, 2], found {source}");
                [dims[0], height, width]
            }
        }
    }

    /// What a mask holds there: for sizes 1 on the picture.
    pub(super) fn valid(self, source: &Host, image: usize, row: usize, column: usize) -> u32 {
        match self {
            Self::Mask => {
                let [_, height, width] = source.shape().blc();
                source.as_u32()[(image * height + row) * width + column]
            }
            Self::Sizes { .. } => {
                let size = &source.as_u32()[2 * image..][..2];
                u32::from(row < size[0] as usize && column < size[1] as usize)
            }
        }
    }

    /// The same in WGSL, of the binding `source` and the parameters `p.height` and `p.width`.
    pub(super) fn part(self) -> Source {
        match self {
            Self::Mask => wgsl!("position/valid_mask.wgsl"),
            Self::Sizes { .. } => wgsl!("position/valid_sizes.wgsl"),
        }
    }
}

/// Nearest-neighbour resize of the mask of valid pixels to `u32[B, height, width]`, as PyTorch's `interpolate`; made of sizes, the mask
/// itself is never there.
#[derive(Clone, Copy, Debug)]
pub struct MaskResize {
    /// What the input is.
    pub padding: Padding,
    /// Rows of the result.
    pub height: usize,
    /// Columns of the result.
    pub width: usize,
}

/// How many source pixels a pixel of the result stands for, in `f32` as PyTorch computes it: the rounding decides.
fn scale(from: usize, to: usize) -> f32 {
    from as f32 / to as f32
}

impl Op for MaskResize {
    fn name(&self) -> &'static str {
        "mask_resize"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [batch, _, _] = self.padding.batch(self.name(), inputs);
        vec![TensorType::new([batch, self.height, self.width], DType::U32)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let [batch, height, width] = self.padding.batch(self.name(), &[inputs[0].ty()]);
        let source = |o: usize, from: usize, to: usize| ((o as f32 * scale(from, to)) as usize).min(from - 1);
        let pixel = |i: usize| {
            let (image, oy, ox) = (i / (self.height * self.width), i / self.width % self.height, i % self.width);
            self.padding.valid(inputs[0], image, source(oy, height, self.height), source(ox, width, self.width))
        };
        vec![Host::u32(outputs[0].shape.dims(), (0..batch * self.height * self.width).map(pixel).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let ([_, height, width], n) = (self.padding.batch(self.name(), inputs), outputs[0].shape.len());
        let words = Words::of([n, height, width, self.height, self.width]);
        let kernel = Dispatch::new(wgsl!("position/resize.wgsl"), 1)
            .part(self.padding.part())
            .constant("GROUP", GROUP)
            .params(words.float(scale(height, self.height)).float(scale(width, self.width)))
            .over_items(n, GROUP);
        vec![kernel]
    }
}

/// How wide and high the image in a padded batch is, in cells of a feature map: f32 `[B, repeat, 2]`, (x, y). An
/// image fills the upper left corner, so that the first row and column of a mask tell its size.
#[derive(Clone, Copy, Debug)]
pub struct MaskExtent {
    /// What the input is.
    pub padding: Padding,
    /// Pixels of a cell.
    pub stride: usize,
    /// How often each image's extent stands in the result.
    pub repeat: usize,
}

impl Op for MaskExtent {
    fn name(&self) -> &'static str {
        "mask_extent"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [batch, _, _] = self.padding.batch(self.name(), inputs);
        assert!(self.stride > 0, "mask_extent: a cell has pixels, {self:?}");
        vec![TensorType::f32([batch, self.repeat, 2])]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let [batch, height, width] = self.padding.batch(self.name(), &[inputs[0].ty()]);
        let scale = 1.0 / self.stride as f32;
        let extent = |image: usize| {
            let columns = (0..width).filter(|&x| self.padding.valid(inputs[0], image, 0, x) != 0).count() as f32;
            let rows = (0..height).filter(|&y| self.padding.valid(inputs[0], image, y, 0) != 0).count() as f32;
            [columns * scale, rows * scale].repeat(self.repeat)
        };
        vec![Host::f32(outputs[0].shape.dims(), (0..batch).flat_map(extent).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let [batch, height, width] = self.padding.batch(self.name(), inputs);
        let kernel = Dispatch::new(wgsl!("position/extent.wgsl"), 1)
            .part(self.padding.part())
            .constant("GROUP", GROUP)
            .constant("LANES", GROUP)
            .params(Words::of([batch, height, width, self.repeat]).float(1.0 / self.stride as f32))
            .over_groups(batch);
        vec![kernel]
    }
}

/// The sine position encoding `[B, h·w, channels]` of the tokens of a mask `u32[B, h, w]` (1 = valid), in the type `to`.
///
/// # Panics
/// When `channels` is no multiple of 4.
#[track_caller]
pub fn sine_position(g: &mut Graph, mask: Var, channels: usize, to: DType) -> Var {
    g.apply(SinePosition { channels, to }, &[mask])
}

/// Where the pictures of a batch are.
#[derive(Clone, Copy, Debug)]
pub struct Valid {
    /// What says so.
    pub source: Var,
    /// And how.
    pub padding: Padding,
}

impl Valid {
    /// By a mask `u32[B, H, W]`, 1 on pictures.
    pub fn mask(source: Var) -> Self {
        Self { source, padding: Padding::Mask }
    }

    /// By height and width of each picture, `u32[B, 2]`, in a batch of so many rows and columns.
    pub fn sizes(source: Var, height: usize, width: usize) -> Self {
        Self { source, padding: Padding::Sizes { height, width } }
    }
}

/// The mask of valid pixels at another size, `u32[B, height, width]`, each pixel the nearest of the source.
pub fn mask_resize(g: &mut Graph, Valid { source, padding }: Valid, height: usize, width: usize) -> Var {
    g.apply(MaskResize { padding, height, width }, &[source])
}

/// Width and height of the images, in cells of `stride` pixels: f32 `[B, repeat, 2]`.
pub fn mask_extent(g: &mut Graph, Valid { source, padding }: Valid, stride: usize, repeat: usize) -> Var {
    g.apply(MaskExtent { padding, stride, repeat }, &[source])
}

/// Sizes u32 `[B, 2]` of pictures that fill a batch, half of it or a pixel, in turn.
pub(crate) fn test_sizes(batch: usize, height: usize, width: usize) -> Host {
    let size = |image: usize| match image % 3 {
        0 => [height.div_ceil(2), width.div_ceil(3)],
        1 => [height, width],
        _ => [1, 1],
    };
    Host::u32([batch, 2], (0..batch).flat_map(size).map(|side| side as u32).collect())
}

/// Cases of the op table: batch, height, width, channels, and the size to resize to.
pub fn cases() -> Vec<Case> {
    let shapes = [
        ([1, 1, 1], 4, [1, 1]),
        ([1, 1, 1], 16, [3, 2]),
        ([2, 5, 7], 12, [2, 3]),
        ([1, 25, 34], 256, [7, 9]),
        ([3, 4, 257], 8, [4, 257]),
        ([2, 101, 3], 4, [13, 1]),
        ([1, 97, 131], 4, [4, 5]),
        ([1, 200, 67], 4, [7, 3]),
        ([1, 1, 1031], 4, [3, 1032]),
    ];
    let mut cases = Vec::new();
    for (i, ([b, h, w], channels, [height, width])) in shapes.into_iter().enumerate() {
        // Holes everywhere, an image without a valid pixel, and masks as padding makes them.
        let holes = test_mask(b, h * w, i as u64, b > 1).reshape([b, h, w]);
        let inside = |p: usize| p / w % h < h.div_ceil(2) && p % w < w.div_ceil(3);
        let corner = Host::u32([b, h, w], (0..b * h * w).map(|p| u32::from(inside(p))).collect());
        for mask in [&holes, &corner] {
            let sine = |to| SinePosition { channels, to };
            cases.push(Case::new(sine(DType::F32), vec![mask.clone()], Tolerance::of(4e-6)));
            cases.push(Case::new(sine(DType::F16), vec![mask.clone()], Tolerance::of(1e-3)));
        }
        let sizes = (Padding::Sizes { height: h, width: w }, test_sizes(b, h, w));
        for (padding, source) in [(Padding::Mask, holes), (Padding::Mask, corner), sizes] {
            cases.push(Case::new(MaskResize { padding, height, width }, vec![source.clone()], Tolerance::EXACT));
            let extent = MaskExtent { padding, stride: [1, 16, 32][i % 3], repeat: [1, 100, 257][i / 3] };
            cases.push(Case::new(extent, vec![source], Tolerance::of(1e-6)));
        }
    }
    // More than 65,535 workgroups.
    let large = vec![Host::u32([1, 2, 1], vec![1, 0])];
    let padding = Padding::Mask;
    cases.push(Case::new(MaskResize { padding, height: 4097, width: 4096 }, large, Tolerance::EXACT));
    let many = vec![Host::u32([65_540, 1, 2], (0..131_080).map(|i| i % 3).collect())];
    cases.push(Case::new(MaskExtent { padding, stride: 1, repeat: 1 }, many, Tolerance::EXACT));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_tell_what_their_mask_tells() {
        let ([b, h, w], [height, width]) = ([3, 97, 131], [4, 5]);
        let (by_size, sizes) = (Padding::Sizes { height: h, width: w }, test_sizes(b, h, w));
        let at = |p: usize| by_size.valid(&sizes, p / (h * w), p / w % h, p % w);
        let mask = Host::u32([b, h, w], (0..b * h * w).map(at).collect());
        let answers = |padding: Padding, source: &Host| {
            let ops: [&dyn Op; 2] = [&MaskResize { padding, height, width }, &MaskExtent { padding, stride: 32, repeat: 2 }];
            ops.map(|op| op.reference(&[source], &op.outputs(&[source.ty()])))
        };
        assert!(answers(by_size, &sizes) == answers(Padding::Mask, &mask));
    }

    #[test]
    #[should_panic(expected = "multiple of 4")]
    fn channels_that_have_no_pairs_for_both_axes_are_refused() {
        SinePosition { channels: 6, to: DType::F32 }.outputs(&[TensorType::new([1, 2, 3], DType::U32)]);
    }
}
