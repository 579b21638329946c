//! Sigmoid focal loss (Lin et al., ICCV 2017), as Deformable DETR and SMCA-DETR use it.
//!
//! Shapes: x `[.., C]`, wanted `[..]` (u32; C or more is no class), weight `[..]`, loss `[..]`. Saved for backward: x.
//! Everything goes through `wrong = ∓x` and `log(1 + exp(wrong))`: no logit is too large for it.

use super::{GROUP, TEST_LOGITS, classes, losses_of, test_classes, test_weights};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var};
use crate::kernels::rows::RowLayout;
use crate::tensor::compare::Tolerance;
use crate::tensor::{Host, TensorType};
use crate::wgsl;

/// `loss = weight · Σ_c α_c q_c^γ · log(1 + exp(wrong_c))` with `q = sigmoid(wrong)`; for the wanted class `wrong = −x`,
/// `α_c = α`, for all others `wrong = x`, `α_c = 1 − α`. Inputs x, wanted, weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Focal {
    /// α: 0.25 in the papers.
    pub alpha: f32,
    /// γ: 2 in the papers.
    pub gamma: f32,
}

/// The gradient of [`Focal`] with respect to x; inputs x, wanted, weight, d_loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FocalBackward(pub Focal);

impl Focal {
    /// Loss of one logit, and its derivative.
    fn of(self, x: f32, hit: bool) -> (f64, f64) {
        let (sign, alpha) = if hit { (-1.0, self.alpha) } else { (1.0, 1.0 - self.alpha) };
        let wrong = sign * f64::from(x);
        let tail = (-wrong.abs()).exp().ln_1p();
        let (surprise, q) = (wrong.max(0.0) + tail, 1.0 / (1.0 + (-wrong).exp()));
        let gamma = f64::from(self.gamma);
        let scale = f64::from(alpha) * (-gamma * ((-wrong).max(0.0) + tail)).exp();
        let slope = sign * scale * (gamma * (1.0 / (1.0 + wrong.exp())) * surprise + q);
        (scale * surprise, slope)
    }

    fn params(self, first: usize, columns: usize) -> Words {
        Words::of([first, columns]).float(self.alpha).float(self.gamma)
    }
}

impl Op for Focal {
    fn name(&self) -> &'static str {
        "focal"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        vec![losses_of(self.name(), inputs, classes, 1)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (x, wanted, weight) = (inputs[0].to_f32(), inputs[1].as_u32(), inputs[2].to_f32());
        let row = |(row, x): (usize, &[f32])| {
            let terms = x.iter().enumerate().map(|(c, &v)| self.of(v, c == wanted[row] as usize).0);
            if weight[row] == 0.0 { 0.0 } else { weight[row] * terms.sum::<f64>() as f32 }
        };
        vec![Host::from_f32(outputs[0], x.chunks(inputs[0].shape().last()).enumerate().map(row).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let (rows, columns) = (inputs[0].shape.rows(), inputs[0].shape.last());
        let kernel = Dispatch::new(wgsl!("loss/focal.wgsl"), 3).part(wgsl!("loss/sigmoid_terms.wgsl")).params(self.params(rows, columns));
        vec![RowLayout::new(inputs[0].shape, 1).apply(kernel)]
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], _wanted: &[bool]) -> Vec<Option<Var>> {
        let d_x = d_outputs[0].map(|d| graph.apply(FocalBackward(*self), &[io.inputs[0], io.inputs[1], io.inputs[2], d]));
        vec![d_x, None, None]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        12 * inputs[0].shape.len() as u64
    }
}

impl Op for FocalBackward {
    fn name(&self) -> &'static str {
        "focal_backward"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        losses_of(self.name(), inputs, classes, 2);
        vec![inputs[0]]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (x, wanted, weight, d_loss) = (inputs[0].to_f32(), inputs[1].as_u32(), inputs[2].to_f32(), inputs[3].to_f32());
        let columns = inputs[0].shape().last();
        let d_x = |(i, &v): (usize, &f32)| {
            let (row, c) = (i / columns, i % columns);
            let slope = self.0.of(v, c == wanted[row] as usize).1 as f32;
            if weight[row] == 0.0 { 0.0 } else { d_loss[row] * weight[row] * slope }
        };
        vec![Host::from_f32(outputs[0], x.iter().enumerate().map(d_x).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let (n, columns) = (inputs[0].shape.len(), inputs[0].shape.last());
        let kernel = Dispatch::new(wgsl!("loss/focal_backward.wgsl"), 4)
            .part(wgsl!("loss/sigmoid_terms.wgsl"))
            .constant("GROUP", GROUP)
            .params(self.0.params(n, columns))
            .over_items(n, GROUP);
        vec![kernel]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        16 * inputs[0].shape.len() as u64
    }
}

/// Cases of both ops.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let parameters = [(0.25, 2.0), (0.25, 2.0), (0.5, 0.0), (0.9, 1.0), (0.25, 2.0), (0.25, 2.5), (0.25, 2.0), (0.25, 2.0)];
    for (i, (shape, (alpha, gamma))) in TEST_LOGITS.into_iter().zip(parameters).enumerate() {
        let (rows, seed, focal) = (&shape[..shape.len() - 1], 10 * i as u64, Focal { alpha, gamma });
        // Moderate logits, and such that exp would overflow.
        for scale in if rows[0] > 65_535 { &[6.0][..] } else { &[6.0, 5000.0] } {
            let x = Host::f32(shape, noise(shape, seed).to_f32().iter().map(|v| v * scale).collect());
            // One class more than there is: rows that want none.
            let inputs = vec![x, test_classes(rows, shape[shape.len() - 1] + 1, seed + 1), test_weights(rows, seed + 2)];
            let backward = [inputs.clone(), vec![noise(rows, seed + 3)]].concat();
            let tolerance = Tolerance { absolute: 1e-5, relative: 2e-5 };
            cases.push(Case::new(focal, inputs, tolerance));
            cases.push(Case::new(FocalBackward(focal), backward, tolerance));
        }
    }
    // A row of weight 0 may hold anything.
    let focal = Focal { alpha: 0.25, gamma: 2.0 };
    let wild = Host::f32([2, 2], vec![f32::MAX, -f32::MAX, 1.0, 2.0]);
    let inputs = vec![wild, Host::u32([2], vec![1, u32::MAX]), Host::f32([2], vec![0.0, 1.0])];
    let backward = [inputs.clone(), vec![Host::f32([2], vec![1.0; 2])]].concat();
    cases.push(Case::new(focal, inputs, Tolerance::of(1e-5)));
    cases.push(Case::new(FocalBackward(focal), backward, Tolerance::of(1e-5)));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_focus_it_is_the_weighted_cross_entropy_of_sigmoids() {
        let focal = Focal { alpha: 0.75, gamma: 0.0 };
        for x in [-3.0f32, -0.5, 0.0, 2.0] {
            let p = 1.0 / (1.0 + f64::from(-x).exp());
            assert!((focal.of(x, true).0 - 0.75 * -p.ln()).abs() < 1e-12);
            assert!((focal.of(x, false).0 - 0.25 * -(1.0 - p).ln()).abs() < 1e-12);
        }
    }

    #[test]
    fn the_largest_logits_have_finite_losses_and_slopes() {
        let focal = Focal { alpha: 0.25, gamma: 2.0 };
        for (x, hit) in [(f32::MAX, true), (f32::MAX, false), (-f32::MAX, true), (-f32::MAX, false)] {
            let (loss, slope) = focal.of(x, hit);
            assert!(loss.is_finite() && slope.is_finite(), "{x} {hit}: {loss} {slope}");
        }
    }
}
