//! The codes of a tensor: x `[..]` in f32 or f16 and the state f32 `[G, 4]` of its quantizer to i8 `[..]`.

use super::backward::{QuantizeBackward, sums_of_state};
use super::values::divides;
use super::{Levels, QuantizerState};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, Shape, TensorType};
use crate::wgsl;
use std::sync::Arc;

/// Invocations of a workgroup; each takes four words.
const GROUP: usize = 64;

/// `(x, state) -> codes`; see the module of the family.
#[derive(Clone, Copy, Debug)]
pub struct Quantize {
    /// Bits of a code: 2 to 8.
    pub bits: u32,
    /// Whether half of the levels are negative.
    pub signed: bool,
    /// Neighbouring elements that share a step size.
    pub inner: usize,
}

impl Quantize {
    /// The levels of the codes.
    pub(crate) fn levels(self) -> Levels {
        Levels::new(self.bits, self.signed)
    }

    /// Neighbouring elements that share a step size, when there are so many step sizes.
    pub(crate) fn run(self, x: Shape, groups: usize) -> usize {
        if groups == 1 { x.len() } else { self.inner }
    }

    fn kernel(self, x: TensorType, groups: usize, four: bool) -> Dispatch {
        let (levels, n) = (self.levels(), x.shape.len());
        let limits = [levels.low() as f32, levels.high() as f32, levels.offset() as f32];
        let words = Words::of([n, n.div_ceil(4), self.run(x.shape, groups), groups]);
        Dispatch::new(wgsl!("quantize/codes.wgsl"), 2)
            .element("element_x", x.dtype)
            .constant("GROUP", GROUP)
            .part(if four { wgsl!("quantize/read_vec4.wgsl") } else { wgsl!("quantize/read_scalar.wgsl") })
            .params(limits.into_iter().fold(words, Words::float))
            .over_items(n.div_ceil(4), 4 * GROUP)
    }
}

impl Op for Quantize {
    fn name(&self) -> &'static str {
        "quantize"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let levels = self.levels();
        let fits = inputs.len() == 2 && inputs[0].dtype.is_float() && divides(self.inner, inputs[0].shape, inputs[1]);
        assert!(
            fits,
            "quantize: {levels:?} wants floats x and a state f32[G, 4] with a multiple of {} · G elements in x, found {}",
            self.inner,
            ids(inputs)
        );
        vec![inputs[0].with_dtype(DType::I8)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (levels, x, state) = (self.levels(), inputs[0].to_f32(), inputs[1].to_f32());
        let (groups, offset) = (state.len() / 4, levels.offset() as f32);
        let run = self.run(outputs[0].shape, groups);
        let code = |(i, &x): (usize, &f32)| {
            let state = &state[i / run % groups * 4..][..4];
            (levels.nearest(levels.scaled(x, state)) - offset) as i8
        };
        vec![Host::i8(outputs[0].shape.dims(), x.iter().enumerate().map(code).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let groups = inputs[1].shape.rows();
        // Each word's four elements must share a step size.
        let four = inputs[0].shape.len().is_multiple_of(4) && self.run(inputs[0].shape, groups).is_multiple_of(4);
        four.then_some(true).into_iter().chain([false]).map(|four| self.kernel(inputs[0], groups, four)).collect()
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], wanted: &[bool]) -> Vec<Option<Var>> {
        let Some(d) = d_outputs[0] else { return vec![None; 2] };
        let op = QuantizeBackward::of(*self, wanted[0]);
        let all = graph.apply_all(Arc::new(op), &[io.inputs[0], io.inputs[1], d]);
        let d_state = wanted[1].then(|| sums_of_state(graph, self.levels(), io.inputs[0], all[op.sums()]));
        vec![wanted[0].then_some(all[0]), d_state]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        5 * inputs[0].shape.len() as u64
    }
}

/// A tensor, how many step sizes it has, and how many neighbours share one.
pub(super) struct Granular {
    pub(super) shape: Vec<usize>,
    pub(super) groups: usize,
    pub(super) inner: usize,
}

/// Whole tensors, rows of weights, heads of tokens, maps, channels; lengths that four divides and does not.
pub(super) fn test_shapes() -> Vec<Granular> {
    let of = |shape: &[usize], groups, inner| Granular { shape: shape.to_vec(), groups, inner };
    vec![
        of(&[1], 1, 1),
        of(&[7], 1, 1),
        of(&[3, 5, 8], 1, 120),
        of(&[2, 41, 257], 1, 1),
        of(&[5, 1, 3, 7], 5, 21),
        of(&[40, 64], 40, 64),
        of(&[16, 3, 3, 12], 16, 108),
        of(&[2, 50, 32], 8, 4),
        of(&[2, 7, 24], 4, 6),
        of(&[1, 850, 256], 8, 32),
        of(&[2, 3, 5, 7], 3, 35),
        of(&[2, 8, 10, 34], 8, 340),
        of(&[3, 11, 5], 5, 1),
        of(&[1, 33, 64], 64, 1),
        of(&[2, 600, 3], 1, 3),
    ]
}

/// Step sizes that are powers of two in every other group, so that x can lie exactly between two codes.
pub(super) fn test_state(op: QuantizerState, groups: usize, seed: u64, with_zero: bool) -> Host {
    let base = noise([groups], seed);
    let alpha = |(i, v): (usize, &f32)| if i % 2 == 0 { [0.125, 0.25, 0.0625][i / 2 % 3] } else { 0.1 + 0.05 * v };
    let alpha = Host::f32([groups], base.to_f32().iter().enumerate().map(alpha).collect());
    let zp = Host::f32([groups], base.to_f32().iter().map(|v| v * 1.4 * (1 << (op.bits - 1)) as f32).collect());
    let inputs = if with_zero { vec![&alpha, &zp] } else { vec![&alpha] };
    op.reference(&inputs, &[TensorType::f32([groups, 4])]).remove(0)
}

/// Elements within and beyond the levels: noise, and every other one a multiple of 1/32, which under a step size that is a power of
/// two is a tie, or lies exactly on the first or last level.
pub(super) fn test_x(shape: &[usize], bits: u32, seed: u64) -> Host {
    let reach = 0.15 * (1 << bits) as f32;
    let x = |(i, v): (usize, &f32)| if i % 2 == 0 { v * reach } else { (v * reach * 32.0).round() / 32.0 };
    Host::f32(shape, noise(shape, seed).to_f32().iter().enumerate().map(x).collect())
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, Granular { shape, groups, inner }) in test_shapes().into_iter().enumerate() {
        for turn in 0..4 {
            let (bits, signed) = (2 + ((3 * i + turn) % 7) as u32, turn % 2 == 0);
            let state = test_state(QuantizerState { bits, signed }, groups, i as u64, turn < 2);
            let inputs = vec![test_x(&shape, bits, (10 * i + turn) as u64), state];
            let case = Case::new(Quantize { bits, signed, inner }, inputs, Tolerance::EXACT);
            if turn % 2 == i % 2 {
                let mut half = case.clone();
                half.inputs[0] = half.inputs[0].clone().cast(DType::F16);
                cases.push(half);
            }
            cases.push(case);
        }
    }
    cases.extend(odd_values());
    // More than 65,535 workgroups.
    let inputs = vec![test_x(&[65_536, 257], 4, 3), test_state(QuantizerState { bits: 4, signed: true }, 1, 3, true)];
    cases.push(Case::new(Quantize { bits: 4, signed: true, inner: 1 }, inputs, Tolerance::EXACT));
    cases
}

/// Every tie, clip and level of every width at once; constants, zeros, huge and tiny numbers, and products that differ when a
/// compiler fuses them with the sum.
fn odd_values() -> Vec<Case> {
    let mut cases = Vec::new();
    for bits in 2..=8 {
        for signed in [true, false] {
            let (levels, state) = (Levels::new(bits, signed), |alpha: f32, zero: f32| {
                let inputs = [Host::f32([1], vec![alpha]), Host::f32([1], vec![zero])];
                QuantizerState { bits, signed }.reference(&[&inputs[0], &inputs[1]], &[TensorType::f32([1, 4])]).remove(0)
            });
            let quantize = |x: Vec<f32>, state: Host| {
                Case::new(Quantize { bits, signed, inner: 1 }, vec![Host::f32([x.len()], x), state], Tolerance::EXACT)
            };
            // Quarters of a step from below the first level to above the last: on it, halfway, and next to halfway.
            let quarters = (4 * levels.low() - 8..=4 * levels.high() + 8).flat_map(|i| {
                let x = i as f32 * 0.125 * 0.25;
                [x, x.next_up(), x.next_down()]
            });
            cases.push(quantize(quarters.collect(), state(0.125, 0.0)));
            let near_ties = |i: i32| ((i as f32 + 0.5) * 0.1).next_up();
            cases.push(quantize((levels.low() - 9..levels.high() + 9).map(near_ties).collect(), state(0.1, 3.0)));
        }
        let state = |alpha: f32| {
            let alpha = Host::f32([1], vec![alpha]);
            QuantizerState { bits, signed: true }.reference(&[&alpha], &[TensorType::f32([1, 4])]).remove(0)
        };
        let huge = vec![3e38, -3e38, 1e30, -1e30, 1e-38, 1e-45, -0.0, 0.0, 5e28, -5e28, 1.0];
        for (x, alpha) in [(vec![0.0; 12], 0.3), (vec![0.7; 9], 0.7), (vec![0.0; 3], 0.0), (huge, 1e29)] {
            let op = Quantize { bits, signed: true, inner: 1 };
            cases.push(Case::new(op, vec![Host::f32([x.len()], x), state(alpha)], Tolerance::EXACT));
        }
    }
    cases
}
