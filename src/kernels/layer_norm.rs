//! Layer normalization over the last dimension.
//!
//! `y = (x − mean) / √(variance + eps) · weight + bias` with mean and variance of each row: `Σ (x − mean)² / C` as in PyTorch's
//! `LayerNorm`, or `/ (C − 1)` as in Q-DETR's [distribution alignment](distribution_alignment).
//! Shapes: x `[.., C]`, weight and bias `[C]`, y as x. Weight and bias may stay `f32` while x is `f16`.
//! Saved for backward: x and weight; the statistics of a row are cheaper to compute again than to keep.
//!
//! **Tried and left** (H100, DETR-R50 4-4-8, batch 8, 2026-11-26): a row read once, into registers, 294 µs for 29 norms in place of 281. A norm of
//! 256 channels is mostly a launch, and longer code costs it more than two reads from the cache. With sums of sixteen lanes in two barriers in
//! place of six, the same norms take 246 µs at batch 1 and 279 at batch 8, before 252 and 283; then a row read once, and what is added behind it
//! before the sums, 247 and 278; weights and biases before the sums too 234 and 284; and the states of quantizers 231 and 287.

use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::kernels::reduce;
use crate::kernels::rows::{RowLayout, floats, width_of};
use crate::tensor::compare::Tolerance;
use crate::tensor::{Host, Shape, TensorType};
use crate::wgsl;
use std::sync::Arc;

/// Layer normalization over the last dimension.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f32,
    /// Divide the sum of squares by C − 1 in place of C.
    pub unbiased: bool,
}

impl LayerNorm {
    /// What the squares of a row of `columns` are divided by.
    pub(super) fn freedom(self, columns: usize) -> usize {
        columns - usize::from(self.unbiased)
    }

    /// Mean of a row and `1 / √(variance + eps)`.
    fn statistics(self, row: &[f32]) -> (f32, f32) {
        let mean = row.iter().sum::<f32>() / row.len() as f32;
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / self.freedom(row.len()) as f32;
        (mean, 1.0 / (variance + self.eps).sqrt())
    }

    #[track_caller]
    fn check(self, op: &str, x: TensorType) {
        assert!(self.freedom(x.shape.last()) > 0, "{op}: one number has no unbiased variance, found {x}");
    }

    /// The kernel without what stores its results.
    pub(super) fn kernel(self, x: TensorType, weight: TensorType, width: usize) -> Dispatch {
        let layout = RowLayout::new(x.shape, width);
        let dispatch = Dispatch::new(wgsl!("layer_norm.wgsl"), 3)
            .wide("wide_x", x.dtype, width)
            .wide("wide_w", weight.dtype, width)
            .params(Words::of([x.shape.rows(), x.shape.last() / width, x.shape.last(), self.freedom(x.shape.last())]).float(self.eps));
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
        self.check(self.name(), *x);
        vec![*x]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (x, weight, bias) = (inputs[0].to_f32(), inputs[1].to_f32(), inputs[2].to_f32());
        let normalize = |row: &[f32]| -> Vec<f32> {
            let (mean, r) = self.statistics(row);
            row.iter().zip(weight.iter().zip(bias.iter())).map(|(x, (w, b))| (x - mean) * r * w + b).collect()
        };
        vec![Host::from_f32(outputs[0], x.chunks(weight.len()).flat_map(normalize).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let (x, weight) = (inputs[0], inputs[1]);
        width_of(x.shape.last()).map(|width| floats(self.kernel(x, weight, width), 4, x.dtype, width)).collect()
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], wanted: &[bool]) -> Vec<Option<Var>> {
        let Some(d_y) = d_outputs[0] else { return vec![None; 3] };
        let [x, weight, _] = [0, 1, 2].map(|i| io.inputs[i]);
        let to = graph.ty(weight).dtype;
        let all = graph.apply_all(Arc::new(LayerNormBackward { of: *self }), &[x, weight, d_y]);
        let d_weight = wanted[1].then(|| reduce::column_sums(graph, all[1], to));
        let d_bias = wanted[2].then(|| reduce::column_sums(graph, all[2], to));
        vec![wanted[0].then_some(all[0]), d_weight, d_bias]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        8 * inputs[0].shape.len() as u64
    }
}

/// `(x, weight, d_y) -> (d_x, d_weight, d_bias)`: the first like x, the others `f32[parts, C]`, sums over parts of the rows.
#[derive(Clone, Copy, Debug)]
pub struct LayerNormBackward {
    /// Whose gradient.
    pub of: LayerNorm,
}

impl LayerNormBackward {
    /// Workgroups, each of which sums its share of the rows; their sums are added by one more node.
    fn parts(x: TensorType) -> usize {
        x.shape.rows().min(256)
    }

    fn kernel(self, x: TensorType, weight: TensorType, width: usize) -> Dispatch {
        let layout = RowLayout::new(x.shape, width);
        let (rows, columns) = (x.shape.rows(), x.shape.last());
        let dispatch = Dispatch::new(wgsl!("layer_norm_backward.wgsl"), 3)
            .wide("wide_x", x.dtype, width)
            .wide("wide_w", weight.dtype, width)
            .constant("PER_LANE", layout.steps(columns))
            .params(Words::of([rows, columns / width, columns, self.of.freedom(columns), rows.div_ceil(Self::parts(x))]).float(self.of.eps))
            .over_groups(Self::parts(x));
        layout.constants(dispatch)
    }
}

impl Op for LayerNormBackward {
    fn name(&self) -> &'static str {
        "layer_norm_backward"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [x, weight, d_y] = inputs else { panic!("layer_norm_backward: wants x, weight and d_y, found {}", ids(inputs)) };
        let fits = x.dtype.is_float() && weight.dtype.is_float() && weight.shape == Shape::new([x.shape.last()]) && d_y == x;
        assert!(fits, "layer_norm_backward: wants x [.., C], weight [C] and d_y like x, found {}", ids(inputs));
        self.of.check(self.name(), *x);
        let sums = TensorType::f32([Self::parts(*x), x.shape.last()]);
        vec![*x, sums, sums]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (x, weight, d_y) = (inputs[0].to_f32(), inputs[1].to_f32(), inputs[2].to_f32());
        let c = weight.len();
        let chunk = inputs[0].shape().rows().div_ceil(outputs[1].shape.rows());
        let mut d_x = Vec::with_capacity(x.len());
        let (mut d_weight, mut d_bias) = (vec![0.0; outputs[1].shape.len()], vec![0.0; outputs[1].shape.len()]);
        for (row, (x, d_y)) in x.chunks(c).zip(d_y.chunks(c)).enumerate() {
            let (mean, r) = self.of.statistics(x);
            let n: Vec<f32> = x.iter().map(|x| (x - mean) * r).collect();
            let g: Vec<f32> = d_y.iter().zip(weight.iter()).map(|(d, w)| d * w).collect();
            let g_mean = g.iter().sum::<f32>() / c as f32;
            let gn_mean = g.iter().zip(&n).map(|(g, n)| g * n).sum::<f32>() / self.of.freedom(c) as f32;
            for i in 0..c {
                d_x.push(r * (g[i] - g_mean - n[i] * gn_mean));
                d_weight[row / chunk * c + i] += d_y[i] * n[i];
                d_bias[row / chunk * c + i] += d_y[i];
            }
        }
        let results = [d_x, d_weight, d_bias].into_iter().zip(outputs);
        results.map(|(data, &ty)| Host::from_f32(ty, data)).collect()
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        width_of(inputs[0].shape.last()).map(|width| self.kernel(inputs[0], inputs[1], width)).collect()
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        20 * inputs[0].shape.len() as u64
    }
}

/// Layer normalization of x `[.., C]` over C, then times `weight [C]` plus `bias [C]`.
pub fn layer_norm(g: &mut Graph, x: Var, weight: Var, bias: Var, eps: f32) -> Var {
    g.apply(LayerNorm { eps, unbiased: false }, &[x, weight, bias])
}

/// What [`distribution_alignment`] adds to the variance.
pub const ALIGNMENT_EPS: f32 = 1e-5;

/// Q-DETR's distribution alignment (Xu et al., CVPR 2023, Eq. 9) of queries x `[.., C]`: each head's `d` channels of a token are
/// normalized on their own, with the unbiased variance, then times `gamma [d]` plus `beta [d]`, which all heads share.
///
/// # Panics
/// When d does not divide C.
#[track_caller]
pub fn distribution_alignment(g: &mut Graph, x: Var, gamma: Var, beta: Var) -> Var {
    let (shape, depth) = (g.shape(x), g.shape(gamma).len());
    assert!(shape.last().is_multiple_of(depth), "distribution alignment: heads of {depth} do not fill {shape}");
    let heads = g.reshape(x, [shape.len() / depth, depth]);
    let aligned = g.apply(LayerNorm { eps: ALIGNMENT_EPS, unbiased: true }, &[heads, gamma, beta]);
    g.reshape(aligned, shape.dims())
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
        let case = Case::new(LayerNorm { eps: 1e-5, unbiased: false }, inputs, Tolerance::of(3e-5));
        if c > 1 && shape[0] < 1000 {
            cases.push(Case { op: Arc::new(LayerNorm { eps: 1e-5, unbiased: true }), ..case.clone() });
        }
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
        cases.extend([false, true].map(|unbiased| Case::new(LayerNorm { eps: 1e-5, unbiased }, inputs.clone(), Tolerance::of(2e-3))));
    }
    cases.extend(backward_cases());
    cases
}

fn backward_cases() -> Vec<Case> {
    // One row; fewer rows than parts; parts of several rows, the last ones empty; several steps along a row.
    let shapes: [&[usize]; 8] = [&[1], &[3, 1], &[5, 7], &[2, 300, 12], &[850, 33], &[515, 64], &[2, 1028], &[300, 1031]];
    let mut cases = Vec::new();
    for (i, shape) in shapes.into_iter().enumerate() {
        let (seed, c) = (i as u64, shape[shape.len() - 1]);
        let inputs = vec![noise(shape, seed), noise([c], seed + 50), noise(shape, seed + 90)];
        let of = |unbiased| LayerNormBackward { of: LayerNorm { eps: 1e-5, unbiased } };
        let case = Case::new(of(false), inputs, Tolerance { absolute: 1e-4, relative: 1e-4 });
        if c > 1 {
            cases.push(Case { op: Arc::new(of(true)), ..case.clone() });
        }
        if shape[0] < 10 {
            let half = case.in_f16(Tolerance::of(1e-2));
            let mut mixed = half.clone();
            mixed.inputs[1] = case.inputs[1].clone();
            cases.extend([half, mixed]);
        }
        cases.push(case);
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Values, interpret};

    #[test]
    fn alignment_normalizes_each_head_with_the_unbiased_variance() {
        let mut g = Graph::new();
        let x = g.input("x", TensorType::f32([1, 2, 6]));
        let [gamma, beta] = [[1.0, 2.0, 1.0], [0.0, 0.0, 0.5]].map(|v| g.constant(Host::f32([3], v.to_vec())));
        let y = distribution_alignment(&mut g, x, gamma, beta);
        g.output("y", y);
        let data = vec![1.0, 2.0, 3.0, 5.0, 5.0, 5.0, -10.0, 0.0, 10.0, 4.0, 2.0, 0.0];
        let y = &interpret(&g, &Values::from([("x".to_owned(), Host::f32([1, 2, 6], data))]), &Values::new())["y"];
        assert_eq!(y.shape().dims(), [1, 2, 6]);
        let expected = [-1.0, 0.0, 1.5, 0.0, 0.0, 0.5, -1.0, 0.0, 1.5, 1.0, 0.0, -0.5];
        for (found, expected) in y.to_f32().iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{y:?}");
        }
    }

    #[test]
    #[should_panic(expected = "heads of 4 do not fill [2, 6]")]
    fn heads_that_do_not_fill_the_channels_are_refused() {
        let mut g = Graph::new();
        let (x, gamma) = (g.input("x", TensorType::f32([2, 6])), g.input("gamma", TensorType::f32([4])));
        distribution_alignment(&mut g, x, gamma, gamma);
    }

    #[test]
    #[should_panic(expected = "one number has no unbiased variance")]
    fn heads_of_one_channel_are_refused() {
        let one = TensorType::f32([1]);
        LayerNorm { eps: 1e-5, unbiased: true }.outputs(&[TensorType::f32([3, 1]), one, one]);
    }
}
