//! Cross-entropy of the softmax, through the log-sum-exp: no logit is too large for it.
//!
//! Shapes: x `[.., C]`, wanted `[..]` (u32, below C), weight `[..]`, loss `[..]`. Saved for backward: x.

use super::{TEST_LOGITS, classes, losses_of, test_classes, test_weights};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var};
use crate::kernels::rows::RowLayout;
use crate::tensor::compare::Tolerance;
use crate::tensor::{Host, TensorType};
use crate::wgsl;

/// `loss = weight · (log Σ exp x − x[wanted])`; inputs x, wanted, weight.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy;

/// `d_x = d_loss · weight · (softmax(x) − onehot(wanted))`; inputs x, wanted, weight, d_loss.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropyBackward;

/// The largest logit of a row, and `Σ exp(x − largest)`.
fn largest_and_sum(x: &[f32]) -> (f32, f64) {
    let largest = x.iter().copied().fold(f32::MIN, f32::max);
    (largest, x.iter().map(|&v| f64::from(v - largest).exp()).sum())
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        vec![losses_of(self.name(), inputs, classes, 1)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (x, wanted, weight) = (inputs[0].to_f32(), inputs[1].as_u32(), inputs[2].to_f32());
        let row = |(row, x): (usize, &[f32])| {
            if weight[row] == 0.0 {
                return 0.0;
            }
            let (largest, sum) = largest_and_sum(x);
            weight[row] * (f64::from(largest - x[wanted[row] as usize]) + sum.ln()) as f32
        };
        vec![Host::from_f32(outputs[0], x.chunks(inputs[0].shape().last()).enumerate().map(row).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let (rows, columns) = (inputs[0].shape.rows(), inputs[0].shape.last());
        let kernel = Dispatch::new(wgsl!("loss/cross_entropy.wgsl"), 3).params(Words::of([rows, columns]));
        vec![RowLayout::new(inputs[0].shape, 1).apply(kernel)]
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], _wanted: &[bool]) -> Vec<Option<Var>> {
        let d_x = d_outputs[0].map(|d| graph.apply(CrossEntropyBackward, &[io.inputs[0], io.inputs[1], io.inputs[2], d]));
        vec![d_x, None, None]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        4 * inputs[0].shape.len() as u64
    }
}

impl Op for CrossEntropyBackward {
    fn name(&self) -> &'static str {
        "cross_entropy_backward"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        losses_of(self.name(), inputs, classes, 2);
        vec![inputs[0]]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (x, wanted, weight, d_loss) = (inputs[0].to_f32(), inputs[1].as_u32(), inputs[2].to_f32(), inputs[3].to_f32());
        let row = |(row, x): (usize, &[f32])| {
            let (largest, sum) = largest_and_sum(x);
            let (factor, hit) = (d_loss[row] * weight[row], wanted[row] as usize);
            let d_x = |(c, &v): (usize, &f32)| {
                let p = (f64::from(v - largest).exp() / sum) as f32;
                if weight[row] == 0.0 { 0.0 } else { factor * (p - f32::from(c == hit)) }
            };
            x.iter().enumerate().map(d_x).collect::<Vec<_>>()
        };
        vec![Host::from_f32(outputs[0], x.chunks(inputs[0].shape().last()).enumerate().flat_map(row).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let (rows, columns) = (inputs[0].shape.rows(), inputs[0].shape.last());
        let kernel = Dispatch::new(wgsl!("loss/cross_entropy_backward.wgsl"), 4).params(Words::of([rows, columns]));
        vec![RowLayout::new(inputs[0].shape, 1).apply(kernel)]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        5 * inputs[0].shape.len() as u64
    }
}

/// Cases of both ops.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, shape) in TEST_LOGITS.into_iter().enumerate() {
        let (rows, seed) = (&shape[..shape.len() - 1], 10 * i as u64);
        // Moderate logits, and such that exp would overflow.
        for scale in if rows[0] > 65_535 { &[4.0][..] } else { &[4.0, 5000.0] } {
            let x = Host::f32(shape, noise(shape, seed).to_f32().iter().map(|v| v * scale).collect());
            let inputs = vec![x, test_classes(rows, shape[shape.len() - 1], seed + 1), test_weights(rows, seed + 2)];
            let backward = [inputs.clone(), vec![noise(rows, seed + 3)]].concat();
            cases.push(Case::new(CrossEntropy, inputs, Tolerance::of(1e-5)));
            cases.push(Case::new(CrossEntropyBackward, backward, Tolerance::of(1e-5)));
        }
    }
    // A row of weight 0 may hold anything.
    let wild = Host::f32([2, 2], vec![f32::MAX, -f32::MAX, 1.0, 2.0]);
    let inputs = vec![wild, Host::u32([2], vec![1, 0]), Host::f32([2], vec![0.0, 1.0])];
    let backward = [inputs.clone(), vec![Host::f32([2], vec![1.0; 2])]].concat();
    cases.push(Case::new(CrossEntropy, inputs, Tolerance::of(1e-5)));
    cases.push(Case::new(CrossEntropyBackward, backward, Tolerance::of(1e-5)));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sure_and_right_row_loses_nothing_and_a_sure_and_wrong_one_its_logit() {
        let x = Host::f32([3, 2], vec![1e4, -1e4, 1e4, -1e4, 0.0, 0.0]);
        let inputs = [&x, &Host::u32([3], vec![0, 1, 1]), &Host::f32([3], vec![1.0, 0.5, 2.0])];
        let loss = CrossEntropy.reference(&inputs, &[TensorType::f32([3])]);
        assert_eq!(loss[0].to_f32().as_ref(), [0.0, 1e4, 2.0 * std::f32::consts::LN_2]);
    }

    #[test]
    #[should_panic(expected = "f32[2, 3], u32[3], f32[2]")]
    fn classes_of_another_shape_are_refused() {
        let (rows, weight) = (TensorType::f32([2, 3]), TensorType::f32([2]));
        CrossEntropy.outputs(&[rows, TensorType::new([3], crate::tensor::DType::U32), weight]);
    }
}
