//! Layer normalization over the last dimension.
//!
//! `y = (x − mean) / √(variance + eps) · weight + bias` with mean and (biased) variance of each row, as PyTorch's `LayerNorm`.
//! Shapes: x `[.., C]`, weight and bias `[C]`, y as x. Weight and bias may stay `f32` while x is `f16`.
//! Saved for backward: x and weight; the statistics of a row are cheaper to compute again than to keep.

use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Op, Var, ids};
use crate::kernels::rows::{RowLayout, width_of};
use crate::tensor::compare::Tolerance;
use crate::tensor::{Host, Shape, TensorType};
use crate::wgsl;

/// Layer normalization over the last dimension.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f32,
}

impl LayerNorm {
    fn kernel(self, x: TensorType, weight: TensorType, width: usize) -> Dispatch {
        let layout = RowLayout::new(x.shape, width);
        let dispatch = Dispatch::new(wgsl!("layer_norm.wgsl"), 3)
            .wide("wide_x", x.dtype, width)
            .wide("wide_w", weight.dtype, width)
            .params(Words::of([x.shape.rows(), x.shape.last() / width, x.shape.last()]).float(self.eps));
        layout.apply(dispatch)
    }
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [x, weight, bias] = inputs else { panic!("layer_norm: wants x, weight and bias, found {}", ids(inputs)) };
        let fits = x.dtype.is_float() && weight.dtype.is_float() && weight.shape == Shape::new([x.shape.last()]) && bias == weight;
        assert!(fits, "layer_norm: wants x [.., C], weight [C] and bias like it, found {}", ids(inputs));
        vec![*x]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (x, weight, bias) = (inputs[0].to_f32(), inputs[1].to_f32(), inputs[2].to_f32());
        let normalize = |row: &[f32]| -> Vec<f32> {
            let (mean, r) = statistics(row, self.eps);
            row.iter().zip(weight.iter().zip(bias.iter())).map(|(x, (w, b))| (x - mean) * r * w + b).collect()
        };
        vec![Host::from_f32(outputs[0], x.chunks(weight.len()).flat_map(normalize).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        width_of(inputs[0].shape.last()).map(|width| self.kernel(inputs[0], inputs[1], width)).collect()
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        8 * inputs[0].shape.len() as u64
    }
}

/// Mean of a row and `1 / √(variance + eps)`.
fn statistics(row: &[f32], eps: f32) -> (f32, f32) {
    let mean = row.iter().sum::<f32>() / row.len() as f32;
    let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / row.len() as f32;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// Layer normalization of x `[.., C]` over C, then times `weight [C]` plus `bias [C]`.
pub fn layer_norm(g: &mut Graph, x: Var, weight: Var, bias: Var, eps: f32) -> Var {
    g.apply(LayerNorm { eps }, &[x, weight, bias])
}

/// Cases of the op table.
pub fn cases() -> Vec<Case> {
    // One element, one column, primes, one past the lanes of a row, DETR's, more than 65,535 workgroups.
    let shapes: [&[usize]; 10] =
        [&[1], &[3, 1], &[5, 7], &[2, 3, 257], &[850, 256], &[1, 1, 1, 1028], &[9, 4], &[1, 1021], &[3, 5, 7, 12], &[65_540, 33]];
    let mut cases = Vec::new();
    for (i, shape) in shapes.into_iter().enumerate() {
        let (seed, c) = (i as u64, shape[shape.len() - 1]);
        let inputs = vec![noise(shape, seed), noise([c], seed + 50), noise([c], seed + 90)];
        let case = Case::new(LayerNorm { eps: 1e-5 }, inputs, Tolerance::of(3e-5));
        if shape[0] < 1000 {
            let half = case.in_f16(Tolerance::of(4e-3));
            let mut mixed = case.clone();
            (mixed.inputs[0], mixed.tolerance) = (half.inputs[0].clone(), half.tolerance);
            cases.extend([half, mixed]);
        }
        cases.push(case);
    }
    // Far from zero, where a one-pass variance would be wrong; and rows without any variance.
    let far = noise([4, 256], 7).to_f32().iter().map(|v| v + 1000.0).collect();
    let parameters = [noise([256], 8), noise([256], 9)];
    for x in [Host::f32([4, 256], far), Host::f32([4, 256], vec![3.0; 1024])] {
        let inputs = vec![x, parameters[0].clone(), parameters[1].clone()];
        cases.push(Case::new(LayerNorm { eps: 1e-5 }, inputs, Tolerance::of(2e-3)));
    }
    cases
}
