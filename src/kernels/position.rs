//! Where a token is: DETR's sine position encoding, the resize of the padding mask that it is made from, and how large the
//! image behind a mask is.
//!
//! With `y` and `x` the number of valid pixels up to and including a pixel, along its column and its row, divided by the
//! number in the whole line (+ 1e-6) and times 2π: channels `2i` and `2i + 1` of the first C/2 are
//! `sin` and `cos` of `y / 10000^(2i / (C/2))`, those of the second half the same of `x`
//! (DETR's `PositionEmbeddingSine` with `normalize=True`).

use super::softmax::test_mask;
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

/// Nearest-neighbour resize of a mask: `u32[B, H, W]` to `u32[B, height, width]`, as PyTorch's `interpolate`.
#[derive(Clone, Copy, Debug)]
pub struct MaskResize {
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
        let [mask] = inputs else { panic!("mask_resize: wants one input, found {}", inputs.len()) };
        let [batch, _, _] = mask.shape.blc();
        assert!(mask.dtype == DType::U32, "mask_resize: wants a mask u32[B, H, W], found {mask}");
        vec![TensorType::new([batch, self.height, self.width], DType::U32)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let mask = inputs[0].as_u32();
        let [batch, height, width] = inputs[0].shape().blc();
        let source = |o: usize, from: usize, to: usize| ((o as f32 * scale(from, to)) as usize).min(from - 1);
        let pixel = |i: usize| {
            let (image, oy, ox) = (i / (self.height * self.width), i / self.width % self.height, i % self.width);
            mask[(image * height + source(oy, height, self.height)) * width + source(ox, width, self.width)]
        };
        vec![Host::u32(outputs[0].shape.dims(), (0..batch * self.height * self.width).map(pixel).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let ([_, height, width], n) = (inputs[0].shape.blc(), outputs[0].shape.len());
        let words = Words::of([n, height, width, self.height, self.width]);
        let kernel = Dispatch::new(wgsl!("position/resize.wgsl"), 1)
            .constant("GROUP", GROUP)
            .params(words.float(scale(height, self.height)).float(scale(width, self.width)))
            .over_items(n, GROUP);
        vec![kernel]
    }
}

/// How wide and high the image behind a mask is, in cells of a feature map: `u32[B, H, W]` to f32 `[B, repeat, 2]`, (x, y). An
/// image fills the upper left corner of its mask, so that its first row and column tell its size.
#[derive(Clone, Copy, Debug)]
pub struct MaskExtent {
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
        let [mask] = inputs else { panic!("mask_extent: wants one input, found {}", inputs.len()) };
        let [batch, _, _] = mask.shape.blc();
        assert!(mask.dtype == DType::U32 && self.stride > 0, "mask_extent: wants a mask u32[B, H, W], found {mask}, {self:?}");
        vec![TensorType::f32([batch, self.repeat, 2])]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let [_, height, width] = inputs[0].shape().blc();
        let scale = 1.0 / self.stride as f32;
        let extent = |mask: &[u32]| {
            let count = |step: usize, n: usize| (0..n).filter(|i| mask[i * step] != 0).count() as f32;
            [count(1, width) * scale, count(width, height) * scale].repeat(self.repeat)
        };
        vec![Host::f32(outputs[0].shape.dims(), inputs[0].as_u32().chunks(height * width).flat_map(extent).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let [batch, height, width] = inputs[0].shape.blc();
        let kernel = Dispatch::new(wgsl!("position/extent.wgsl"), 1)
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

/// The mask `u32[B, H, W]` at another size, each pixel the nearest of the source.
pub fn mask_resize(g: &mut Graph, mask: Var, height: usize, width: usize) -> Var {
    g.apply(MaskResize { height, width }, &[mask])
}

/// Width and height of the images behind a mask `u32[B, H, W]`, in cells of `stride` pixels: f32 `[B, repeat, 2]`.
pub fn mask_extent(g: &mut Graph, mask: Var, stride: usize, repeat: usize) -> Var {
    g.apply(MaskExtent { stride, repeat }, &[mask])
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
        for mask in [holes, corner] {
            let sine = |to| SinePosition { channels, to };
            cases.push(Case::new(sine(DType::F32), vec![mask.clone()], Tolerance::of(4e-6)));
            cases.push(Case::new(sine(DType::F16), vec![mask.clone()], Tolerance::of(1e-3)));
            cases.push(Case::new(MaskResize { height, width }, vec![mask.clone()], Tolerance::EXACT));
            let extent = MaskExtent { stride: [1, 16, 32][i % 3], repeat: [1, 100, 257][i / 3] };
            cases.push(Case::new(extent, vec![mask], Tolerance::of(1e-6)));
        }
    }
    // More than 65,535 workgroups.
    let large = vec![Host::u32([1, 2, 1], vec![1, 0])];
    cases.push(Case::new(MaskResize { height: 4097, width: 4096 }, large, Tolerance::EXACT));
    let many = vec![Host::u32([65_540, 1, 2], (0..131_080).map(|i| i % 3).collect())];
    cases.push(Case::new(MaskExtent { stride: 1, repeat: 1 }, many, Tolerance::EXACT));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "multiple of 4")]
    fn channels_that_have_no_pairs_for_both_axes_are_refused() {
        SinePosition { channels: 6, to: DType::F32 }.outputs(&[TensorType::new([1, 2, 3], DType::U32)]);
    }
}
