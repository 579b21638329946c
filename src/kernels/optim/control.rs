//! The middle of a step: the norm of the gradient, how it is clipped, whether the step is done at all.

use super::GROUP;
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::Case;
use crate::graph::{Op, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{Host, TensorType};
use crate::wgsl;

/// Elements of the control vector: norm of the gradient (0 when it is not finite), factor on the gradient, 1 when the step is
/// done or 0, steps done, steps skipped, `1 − β₁ᵗ`, `1 − β₂ᵗ`, 0.
pub const CONTROL: usize = 8;

/// Elements of the state: steps done and steps skipped, both 0 at the start. It is the device that counts, because the bias
/// corrections stand still in skipped steps, of which the host learns too late.
pub const STATE: usize = 2;

/// `(parts [P, 2], inverse_scale [1], state [2]) -> (control [8], state)`, the state in place.
///
/// The norm is `√Σ parts · inverse_scale`; the factor `inverse_scale · min(1, max_norm / (norm + 1e-6))`, as PyTorch's
/// `clip_grad_norm_`. When anything is not finite, the factor is 0 and the step counts as skipped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Control {
    /// Largest norm of the gradient; `None` does not clip.
    pub max_norm: Option<f32>,
    /// β₁ and β₂.
    pub betas: [f64; 2],
}

impl Op for Control {
    fn name(&self) -> &'static str {
        "control"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let state = TensorType::f32([STATE]);
        let fits = inputs.len() == 3
            && inputs[0] == TensorType::f32([inputs[0].shape.rows(), 2])
            && inputs[1..] == [TensorType::f32([1]), state]
            && self.max_norm.is_none_or(|m| m > 0.0);
        assert!(fits, "control: wants f32 [P, 2], [1], {state} and a positive norm, found {}, {self:?}", ids(inputs));
        vec![TensorType::f32([CONTROL]), state]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (parts, scale) = (inputs[0].to_f32(), inputs[1].to_f32()[0]);
        let mut state = inputs[2].to_f32().into_owned();
        let sum = |column: usize| parts.iter().skip(column).step_by(2).map(|&v| f64::from(v)).sum::<f64>();
        let squares = sum(0) as f32;
        let mut control = vec![0.0; 3];
        if sum(1) != 0.0 || !squares.is_finite() {
            state[1] += 1.0;
        } else {
            let norm = squares.sqrt() * scale;
            let clip = self.max_norm.map_or(1.0, |most| (most / (norm + 1e-6)).min(1.0));
            state[0] += 1.0;
            control = vec![norm, clip * scale, 1.0];
        }
        control.extend(&state);
        control.extend(self.betas.map(|beta| (1.0 - beta.powf(f64::from(state[0]))) as f32));
        control.push(0.0);
        vec![Host::from_f32(outputs[0], control), Host::from_f32(outputs[1], state)]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let params = self
            .betas
            .iter()
            .fold(Words::of([inputs[0].shape.rows()]).float(self.max_norm.unwrap_or(0.0)), |words, &beta| words.float(-beta.ln() as f32));
        let kernel = Dispatch::new(wgsl!("optim/control.wgsl"), 2).constant("GROUP", GROUP).params(params).over_groups(1);
        vec![kernel]
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(2, 1)]
    }
}

/// Cases of the op table.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut push = |max_norm: Option<f32>, parts: Vec<f32>, scale: f32, state: [f32; STATE]| {
        let rows = parts.len() / 2;
        let inputs = vec![Host::f32([rows, 2], parts), Host::f32([1], vec![scale]), Host::f32([STATE], state.to_vec())];
        cases.push(Case::new(Control { max_norm, betas: [0.9, 0.999] }, inputs, Tolerance { absolute: 0.0, relative: 1e-5 }));
    };
    let (start, later, old) = ([0.0; STATE], [7.0, 2.0], [90_000.0, 12.0]);
    let many = |n: usize| (0..n).flat_map(|i| [i as f32 + 0.5, 0.0]).collect::<Vec<_>>();
    push(Some(0.1), many(1), 1.0, start);
    push(Some(0.1), many(3000), 1.0, later);
    push(None, many(257), 1.0 / 1024.0, later);
    push(Some(1e9), many(256), 1.0 / 65_536.0, old);
    // On both sides of where the kernel changes its formula for the bias corrections.
    for steps in [3.0, 4.0, 5.0, 498.0, 499.0, 500.0, 501.0] {
        push(None, many(2), 1.0, [steps, 1.0]);
    }
    push(Some(0.1), vec![0.0, 0.0], 1.0, start);
    // One element that is not finite, anywhere; and squares whose sum is not.
    let mut wild = many(1000);
    wild[1999] = 1.0;
    push(Some(0.1), wild, 1.0, later);
    push(Some(0.1), vec![3.0, 5.0], 1.0, start);
    push(Some(0.1), vec![f32::INFINITY, 0.0, 1.0, 0.0], 1.0, later);
    push(None, vec![f32::NAN, 0.0], 0.5, start);
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_and_the_bias_corrections_are_those_of_the_steps_done() {
        let op = Control { max_norm: None, betas: [0.9, 0.999] };
        let (good, bad, scale) = (Host::f32([1, 2], vec![1.0, 0.0]), Host::f32([1, 2], vec![1.0, 3.0]), Host::f32([1], vec![1.0]));
        let types = [TensorType::f32([CONTROL]), TensorType::f32([STATE])];
        let mut state = Host::f32([STATE], vec![0.0; STATE]);
        let mut control = Vec::new();
        for parts in [&good, &bad, &good] {
            let mut outputs = op.reference(&[parts, &scale, &state], &types);
            (state, control) = (outputs.remove(1), outputs.remove(0).to_f32().into_owned());
        }
        assert_eq!(control[3..5], [2.0, 1.0]);
        assert!((control[5] - 0.19).abs() < 1e-7 && (control[6] - 0.001_999).abs() < 1e-9, "{control:?}");
    }
}
