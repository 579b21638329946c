//! Softmax over the last dimension, materialized, with an optional mask of columns.
//!
//! Shapes: x `[B, .., S]`, mask `[B, S]` (`u32`, 1 = valid, as DETR's `key_padding_mask` negated), y as x.
//! A masked column counts as [`MASKED`], a large finite negative: it gets exactly 0 while its row has a valid column; in a
//! row without any, all columns get 1/S. Saved for backward: y.

use crate::gpu::shader::Source;
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::kernels::quantize::Quantize;
use crate::kernels::rows::{RowLayout, width_of};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

/// What the score of a masked key counts as. WGSL knows no infinities.
pub const MASKED: f32 = -1e30;

/// Softmax over the last dimension of its first input; a second input is the mask.
#[derive(Clone, Copy, Debug, Default)]
pub struct Softmax {
    /// How many columns count, of rows that are padded: those behind get 0, and the mask has none of them. All count if there is no
    /// such number. It appears when graphs are fused, after their backward.
    pub keys: Option<usize>,
}

/// The widths in which rows can be read, best first. Pairs are for attention's maps, the largest tensors of a detector: 850 keys are no
/// multiple of four.
fn widths(x: TensorType) -> impl Iterator<Item = usize> {
    [4, 2, 1].into_iter().filter(move |&width| x.shape.last().is_multiple_of(width))
}

impl Softmax {
    fn keys(self, x: TensorType) -> usize {
        self.keys.unwrap_or(x.shape.last())
    }

    /// A kernel over rows in pieces of four columns, which are read `width` at a time.
    fn over_rows(self, source: Source, inputs: &[TensorType], width: usize) -> Dispatch {
        let (x, mask) = (inputs[0], inputs.get(1));
        let (layout, keys, pitch) = (RowLayout::new(x.shape, 4), self.keys(x), x.shape.last());
        let rows_of_mask = x.shape.rows() / mask.map_or(1, |m| m.shape.rows());
        let dispatch = Dispatch::new(source, 1)
            .element("element_x", x.dtype)
            .wide("element_x2", x.dtype, 2)
            .constant("STEPS", layout.steps(pitch.next_multiple_of(4)))
            .flag("HAS_MASK", mask.is_some())
            .bind([0, usize::from(mask.is_some())])
            .params(Words::of([x.shape.rows(), pitch.div_ceil(4), rows_of_mask, keys, pitch]))
            .part(match width {
                4 => wgsl!("softmax/x_vec4.wgsl"),
                2 => wgsl!("softmax/x_vec2.wgsl"),
                _ => wgsl!("softmax/x_scalar.wgsl"),
            })
            .part(if width == 4 && keys.is_multiple_of(4) { wgsl!("softmax/mask_vec4.wgsl") } else { wgsl!("softmax/mask_scalar.wgsl") })
            .part(wgsl!("softmax/limits.wgsl"))
            .part(wgsl!("softmax/row.wgsl"));
        layout.apply(dispatch)
    }

    /// Kernels that write the codes of a quantizer with a state, which is the input behind x and mask; without what keeps floats.
    pub(super) fn kernels_with_codes(
        self,
        inputs: &[TensorType],
        quantizer: Quantize,
        state: TensorType,
    ) -> impl Iterator<Item = Dispatch> {
        let (x, levels, count) = (inputs[0], quantizer.levels(), inputs.len());
        let rows_of_state = if state.shape.rows() == 1 { x.shape.rows() } else { quantizer.inner / x.shape.last() };
        let inputs = inputs.to_vec();
        // Words of codes across rows know of no padding.
        width_of(x.shape.last()).filter(move |&width| width == 4 || self.keys.is_none()).map(move |width| {
            let four = width == 4;
            let source = if four { wgsl!("softmax/codes.wgsl") } else { wgsl!("softmax/codes_across.wgsl") };
            let dispatch =
                self.over_rows(source, &inputs, width).part(wgsl!("softmax/params_codes.wgsl")).part(wgsl!("softmax/stored.wgsl"));
            let words = dispatch.params.clone().also([rows_of_state, state.shape.rows()]);
            let words = [levels.low(), levels.high(), levels.offset()].into_iter().fold(words, |words, limit| words.float(limit as f32));
            let dispatch = dispatch.bind([0, usize::from(count > 1), count]).params(words);
            let at_once = RowLayout::new(x.shape, 4).at_once();
            if four { dispatch } else { dispatch.over_groups(x.shape.rows().div_ceil(at_once.max(4))) }
        })
    }
}

/// Whether a tensor is floats, and a mask, if any, has a number for each of the columns that count of each of its batch elements.
fn fits(x: TensorType, keys: usize, mask: Option<&TensorType>) -> bool {
    let shape = x.shape.dims();
    let masked = |m: &TensorType| *m == TensorType::new([shape[0], keys], DType::U32) && shape.len() > 1;
    x.dtype.is_float() && (1..=x.shape.last()).contains(&keys) && mask.is_none_or(masked)
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let fits = (1..=2).contains(&inputs.len()) && fits(inputs[0], self.keys(inputs[0]), inputs.get(1));
        assert!(fits, "softmax: wants floats x [B, .., S] and maybe a mask u32[B, S], found {self:?}, {}", ids(inputs));
        vec![inputs[0]]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (x, columns, keys) = (inputs[0].to_f32(), inputs[0].shape().last(), self.keys(inputs[0].ty()));
        let rows_of_mask = inputs.get(1).map_or(1, |m| inputs[0].shape().rows() / m.shape().rows());
        let softmax = |(row, x): (usize, &[f32])| {
            let mask = inputs.get(1).map(|m| &m.as_u32()[row / rows_of_mask * keys..][..keys]);
            let mut y = softmax_row(&x[..keys], mask);
            y.resize(columns, 0.0);
            y
        };
        vec![Host::from_f32(outputs[0], x.chunks(columns).enumerate().flat_map(softmax).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let store = |width| match width {
            4 => wgsl!("softmax/y_vec4.wgsl"),
            2 => wgsl!("softmax/y_vec2.wgsl"),
            _ => wgsl!("softmax/y_scalar.wgsl"),
        };
        widths(inputs[0]).map(|width| self.over_rows(wgsl!("softmax.wgsl"), inputs, width).part(store(width))).collect()
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], _wanted: &[bool]) -> Vec<Option<Var>> {
        let d_x = d_outputs[0].map(|d_y| {
            let inputs: Vec<Var> = [io.outputs[0], d_y].into_iter().chain(io.inputs.get(1).copied()).collect();
            graph.apply(SoftmaxBackward, &inputs)
        });
        [d_x, None][..io.inputs.len()].to_vec()
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        5 * inputs[0].shape.len() as u64
    }
}

/// `(y, d_y) -> d_x` for `y = softmax(x)`; a third input is the mask.
#[derive(Clone, Copy, Debug)]
pub struct SoftmaxBackward;

impl SoftmaxBackward {
    fn kernel(self, inputs: &[TensorType], width: usize) -> Dispatch {
        let (x, mask) = (inputs[0], inputs.get(2));
        let layout = RowLayout::new(x.shape, width);
        let rows_of_mask = x.shape.rows() / mask.map_or(1, |m| m.shape.rows());
        let dispatch = Dispatch::new(wgsl!("softmax_backward.wgsl"), 3)
            .wide("wide_x", x.dtype, width)
            .wide("wide_mask", DType::U32, width)
            .constant("STEPS", layout.steps(x.shape.last()))
            .flag("HAS_MASK", mask.is_some())
            .bind([0, 1, if mask.is_some() { 2 } else { 0 }])
            .params(Words::of([x.shape.rows(), x.shape.last() / width, rows_of_mask]));
        layout.apply(dispatch)
    }
}

impl Op for SoftmaxBackward {
    fn name(&self) -> &'static str {
        "softmax_backward"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let fits = (2..=3).contains(&inputs.len()) && inputs[0] == inputs[1] && fits(inputs[0], inputs[0].shape.last(), inputs.get(2));
        assert!(fits, "softmax_backward: wants y [B, .., S], d_y like it and maybe a mask u32[B, S], found {}", ids(inputs));
        vec![inputs[0]]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (y, d_y, columns) = (inputs[0].to_f32(), inputs[1].to_f32(), inputs[0].shape().last());
        let rows_of_mask = inputs.get(2).map_or(1, |m| inputs[0].shape().rows() / m.shape().rows());
        let mut d_x = Vec::with_capacity(y.len());
        for (row, (y, d_y)) in y.chunks(columns).zip(d_y.chunks(columns)).enumerate() {
            let total: f32 = y.iter().zip(d_y).map(|(y, d)| y * d).sum();
            let valid = |i: usize| inputs.get(2).is_none_or(|m| m.as_u32()[row / rows_of_mask * columns + i] != 0);
            d_x.extend((0..columns).map(|i| if valid(i) { y[i] * (d_y[i] - total) } else { 0.0 }));
        }
        vec![Host::from_f32(outputs[0], d_x)]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        widths(inputs[0]).map(|width| self.kernel(inputs, width)).collect()
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        4 * inputs[0].shape.len() as u64
    }
}

/// Softmax of one row, its masked columns replaced by [`MASKED`].
pub(super) fn softmax_row(x: &[f32], mask: Option<&[u32]>) -> Vec<f32> {
    let score = |i: usize| if mask.is_some_and(|m| m[i] == 0) { MASKED } else { x[i] };
    let largest = (0..x.len()).map(score).fold(MASKED, f32::max);
    let weights: Vec<f32> = (0..x.len()).map(|i| (score(i) - largest).exp()).collect();
    let total: f32 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

/// Softmax over the last dimension of x `[B, .., S]`; columns with a 0 in `mask` (`u32[B, S]`) take no part.
pub fn softmax(g: &mut Graph, x: Var, mask: Option<Var>) -> Var {
    match mask {
        Some(mask) => g.apply(Softmax::default(), &[x, mask]),
        None => g.apply(Softmax::default(), &[x]),
    }
}

/// A test mask `[B, S]`: about a third of the columns masked, and in the last batch element all of them when `all_masked`.
pub(super) fn test_mask(batch: usize, columns: usize, seed: u64, all_masked: bool) -> Host {
    let noise = noise([batch, columns], seed);
    let valid = |(i, &v): (usize, &f32)| u32::from(v > -0.3 && !(all_masked && i / columns == batch - 1));
    Host::u32([batch, columns], noise.to_f32().iter().enumerate().map(valid).collect())
}

/// Cases of the op table; those of padded rows are in [`coded`](super::coded), since no others are ever fused.
pub fn cases() -> Vec<Case> {
    // One element, one column, primes, one past the lanes of a row, attention maps, more than 65,535 workgroups.
    let shapes: [&[usize]; 9] =
        [&[1], &[3, 1], &[5, 7], &[2, 3, 257], &[2, 2, 5, 850], &[2, 8, 3, 100], &[1, 1021], &[3, 5, 7, 12], &[65_540, 33]];
    let mut cases = Vec::new();
    for (i, shape) in shapes.into_iter().enumerate() {
        let x: Vec<f32> = noise(shape, i as u64).to_f32().iter().map(|v| v * 20.0).collect();
        let case = Case::new(Softmax::default(), vec![Host::f32(shape, x)], Tolerance::of(1e-5));
        let mut masked = case.clone();
        masked.inputs.push(test_mask(shape[0], shape[shape.len() - 1], i as u64, true));
        if shape.len() > 1 && shape[0] < 1000 {
            cases.extend(backward_cases(&masked));
            cases.extend([masked.in_f16(Tolerance::of(2e-3)), masked]);
        }
        if shape[0] < 1000 {
            cases.extend(backward_cases(&case));
        }
        cases.push(case);
    }
    cases
}

/// The backward of a forward case, in both types.
fn backward_cases(forward: &Case) -> [Case; 2] {
    let x = &forward.inputs[0];
    let y = Softmax::default().reference(&forward.inputs.iter().collect::<Vec<_>>(), &[x.ty()]).remove(0);
    let inputs = [y, noise(x.shape().dims(), 77)].into_iter().chain(forward.inputs.get(1).cloned()).collect();
    let case = Case::new(SoftmaxBackward, inputs, Tolerance::of(1e-5));
    [case.in_f16(Tolerance::of(2e-3)), case]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_column_gets_nothing_and_a_row_without_columns_is_uniform() {
        assert_eq!(softmax_row(&[5.0, 1e4, 5.0], Some(&[1, 0, 1])), [0.5, 0.0, 0.5]);
        assert_eq!(softmax_row(&[5.0, -1e4, 7.0, 0.0], Some(&[0, 0, 0, 0])), [0.25; 4]);
    }

    #[test]
    #[should_panic(expected = "f32[2, 3], u32[3]")]
    fn a_mask_of_another_shape_is_refused() {
        let types = [TensorType::f32([2, 3]), TensorType::new([3], DType::U32)];
        Softmax::default().outputs(&types);
    }
}
