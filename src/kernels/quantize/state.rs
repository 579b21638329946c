//! What a quantizer's kernels read of each step size, made once where all of them would have to divide.
//!
//! `alpha` f32 `[G]` and, unless all zero points are 0, `zp` f32 `[G]` -> f32 `[G, 4]`: `(alpha within its limits, 1 / alpha, Z, z0)` with
//! `Z = clamp(round(zp), low, high)` and `z0 = Z − offset`. Within the levels so that 0.0, a convolution's padding above all, has a
//! code. The reciprocal is an integer long division: WGSL's own is not exact.

use super::{ALPHA_MAX, ALPHA_MIN, GROUP, Levels};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;
use std::sync::Arc;

/// `(alpha [G], zp [G]?) -> [G, 4]`; see the module.
#[derive(Clone, Copy, Debug)]
pub struct QuantizerState {
    /// Bits of a code: 2 to 8.
    pub bits: u32,
    /// Whether half of the levels are negative.
    pub signed: bool,
}

impl QuantizerState {
    /// The levels of its codes.
    pub(crate) fn levels(self) -> Levels {
        Levels::new(self.bits, self.signed)
    }
}

impl Op for QuantizerState {
    fn name(&self) -> &'static str {
        "quantizer_state"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let levels = self.levels();
        let fits = (1..=2).contains(&inputs.len()) && inputs.iter().all(|t| *t == inputs[0]);
        let fits = fits && inputs[0].dtype == DType::F32 && inputs[0].shape.rank() == 1;
        assert!(fits, "quantizer_state: {levels:?} wants alpha f32[G] and maybe zero points like it, found {}", ids(inputs));
        vec![TensorType::f32([inputs[0].shape.len(), 4])]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (levels, alpha, zp) = (self.levels(), inputs[0].to_f32(), inputs.get(1).map(|h| h.to_f32()));
        let one = |(i, alpha): (usize, &f32)| {
            let alpha = alpha.clamp(ALPHA_MIN, ALPHA_MAX);
            let zero = zp.as_ref().map_or(0.0, |zp| levels.nearest(zp[i]));
            [alpha, 1.0 / alpha, zero, zero - levels.offset() as f32]
        };
        vec![Host::from_f32(outputs[0], alpha.iter().enumerate().flat_map(one).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let (levels, n) = (self.levels(), inputs[0].shape.len());
        let limits = [ALPHA_MIN, ALPHA_MAX, levels.low() as f32, levels.high() as f32, levels.offset() as f32];
        let kernel = Dispatch::new(wgsl!("quantize/state.wgsl"), 2)
            .constant("GROUP", GROUP)
            .part(wgsl!("quantize/state_of.wgsl"))
            .flag("HAS_ZERO_POINT", inputs.len() > 1)
            .bind([0, inputs.len() - 1])
            .params(limits.into_iter().fold(Words::of([n]), Words::float))
            .over_items(n, GROUP);
        vec![kernel]
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], _wanted: &[bool]) -> Vec<Option<Var>> {
        let Some(d_state) = d_outputs[0] else { return vec![None; io.inputs.len()] };
        let all = graph.apply_all(Arc::new(QuantizerStateBackward), &[d_state]);
        all[..io.inputs.len()].iter().map(|&d| Some(d)).collect()
    }
}

/// `d_state [G, 4] -> (d_alpha [G], d_zp [G])`: its columns 0 and 2.
#[derive(Clone, Copy, Debug)]
pub struct QuantizerStateBackward;

impl Op for QuantizerStateBackward {
    fn name(&self) -> &'static str {
        "quantizer_state_backward"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let fits = inputs.len() == 1 && inputs[0] == TensorType::f32([inputs[0].shape.rows(), 4]);
        assert!(fits, "quantizer_state_backward: wants d_state f32[G, 4], found {}", ids(inputs));
        vec![TensorType::f32([inputs[0].shape.rows()]); 2]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let d_state = inputs[0].to_f32();
        let column = |i: usize| Host::from_f32(outputs[0], d_state.chunks(4).map(|d| d[i]).collect());
        vec![column(0), column(2)]
    }

    fn kernels(&self, _inputs: &[TensorType], outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let n = outputs[0].shape.len();
        let kernel =
            Dispatch::new(wgsl!("quantize/state_backward.wgsl"), 1).constant("GROUP", GROUP).params(Words::of([n])).over_items(n, GROUP);
        vec![kernel]
    }
}

/// Step sizes of every exponent, powers of two and their neighbours, and what lies outside the limits.
pub(super) fn test_alphas(n: usize, seed: u64) -> Vec<f32> {
    let special = [
        1.0,
        0.5,
        2.0,
        1.0f32.next_up(),
        1.0f32.next_down(),
        0.1,
        3.0,
        ALPHA_MIN,
        0.0,
        -1.0,
        1e-30,
        f32::MIN_POSITIVE / 2.0,
        ALPHA_MAX,
        1e38,
    ];
    let mantissas = noise([n], seed);
    let random = mantissas.to_f32().iter().enumerate().map(|(i, v)| (1.5 + v / 2.0) * (i as f32 % 126.0 - 26.0).exp2()).collect::<Vec<_>>();
    special.into_iter().chain(random).take(n).collect()
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, n) in [1, 3, 14, 257, 8192].into_iter().enumerate() {
        let alpha = Host::f32([n], test_alphas(n, i as u64));
        // Halves among them, which round to even, and beyond the levels of any bits.
        let zp: Vec<f32> = noise([n], i as u64 + 50).to_f32().iter().map(|v| (v * 600.0).round() / 2.0).collect();
        for (bits, signed) in [(2 + i as u32, i % 2 == 0), (8, i % 2 == 1)] {
            let op = QuantizerState { bits, signed };
            cases.push(Case::new(op, vec![alpha.clone()], Tolerance::EXACT));
            cases.push(Case::new(op, vec![alpha.clone(), Host::f32([n], zp.clone())], Tolerance::EXACT));
        }
        cases.push(Case::new(QuantizerStateBackward, vec![noise([n, 4], i as u64 + 90)], Tolerance::EXACT));
    }
    cases
}
