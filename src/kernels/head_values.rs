//! The gradients of attention on codes: the products of [`heads`](super::heads) with one operand that is codes and counts as their values.
//!
//! [`HeadValues`]: [`Scores`] of tokens and keys i8, or [`Mix`] of a map and tokens, either of which is i8; then the state f32 `[h, 4]` of the
//! codes' quantizer. What is computed is what [`Dequantize`] and the product of its values compute one after the other, bit by
//! bit, without the values in memory.
//!
//! # Tried and left
//!
//! The exact differences of codes as operands, with the step size in the factor of the sums, so that values are not made and rounded one by
//! one: 4.27 instead of 4.35 ms for the 72 products of a training step (DETR-R50, 8 × 800 × 1066, NVIDIA's H100, driver 580.159,
//! 2026-11-26, slices of 64), but other bits than those on values in memory.

use super::head_codes::{test_codes, test_state};
use super::head_product::HeadProduct;
use super::heads::{Behind, Mix, Scores};
use super::quantize::Dequantize;
use crate::gpu::{Capabilities, Dispatch};
use crate::graph::check::{Case, noise};
use crate::graph::{Op, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};

/// A product of floats.
#[derive(Clone, Copy, Debug)]
enum Floats {
    Scores(Scores),
    Mix(Mix),
}

/// A product of floats and the values of codes; see the module.
#[derive(Clone, Copy, Debug)]
pub struct HeadValues {
    of: Floats,
    /// Which operand is codes.
    codes: usize,
}

impl HeadValues {
    /// Scores of tokens that are floats and keys that are codes.
    pub(super) fn keys_of_scores(scores: Scores) -> Self {
        Self { of: Floats::Scores(scores), codes: 1 }
    }

    /// The mix of tokens that are floats, by a map of codes.
    pub(super) fn map_of_mix(mix: Mix) -> Self {
        Self { of: Floats::Mix(mix), codes: 0 }
    }

    /// The mix of tokens that are codes, by a map of floats.
    pub(super) fn tokens_of_mix(mix: Mix) -> Self {
        Self { of: Floats::Mix(mix), codes: 1 }
    }

    fn op(&self) -> &dyn Op {
        match &self.of {
            Floats::Scores(scores) => scores,
            Floats::Mix(mix) => mix,
        }
    }

    fn heads(self) -> usize {
        match self.of {
            Floats::Scores(scores) => scores.heads,
            Floats::Mix(mix) => mix.heads,
        }
    }

    fn product(self, inputs: &[TensorType], outputs: &[TensorType]) -> HeadProduct {
        match self.of {
            Floats::Scores(scores) => scores.product(inputs, outputs),
            Floats::Mix(mix) => mix.product(inputs, outputs),
        }
    }

    /// The operands with the values in place of the codes.
    fn floats(self, inputs: &[TensorType]) -> [TensorType; 2] {
        [0, 1].map(|i| inputs[i].with_dtype(inputs[1 - self.codes].dtype))
    }

    /// What gives the values.
    fn dequantizer(self, inputs: &[TensorType]) -> Dequantize {
        // A map lies head by head, tokens have the heads side by side.
        let (codes, to) = (inputs[self.codes].shape, inputs[1 - self.codes].dtype);
        let inner = if self.codes == 0 { codes.len() / (codes.dims()[0] * self.heads()) } else { codes.last() / self.heads() };
        Dequantize { inner, to }
    }
}

impl Op for HeadValues {
    fn name(&self) -> &'static str {
        match self.of {
            Floats::Scores(_) => "value_scores",
            Floats::Mix(_) => "value_mix",
        }
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let state = TensorType::f32([self.heads().max(1), 4]);
        let fits = inputs.len() == 3 && inputs[self.codes].dtype == DType::I8 && inputs[2] == state;
        assert!(fits, "{}: wants codes i8 as operand {}, and their state {state}, found {}", self.name(), self.codes, ids(inputs));
        self.op().outputs(&self.floats(inputs))
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let types: Vec<TensorType> = inputs.iter().map(|input| input.ty()).collect();
        let floats = self.floats(&types);
        let values = self.dequantizer(&types).reference(&[inputs[self.codes], inputs[2]], &[floats[self.codes]]).remove(0);
        let operands = if self.codes == 0 { [&values, inputs[1]] } else { [inputs[0], &values] };
        self.op().reference(&operands, outputs)
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], device: &Capabilities) -> Vec<Dispatch> {
        self.product(inputs, outputs).kernels(device)
    }

    fn operations(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        self.product(inputs, outputs).operations()
    }
}

/// Cases of the op table: B, N, S, heads, d.
pub fn cases() -> Vec<Case> {
    // One of each; rows that begin in each byte of a word; heads of each tile width; whole and broken chunks; DETR's; one query, one key.
    let shapes = [
        [1, 1, 1, 1, 1],
        [2, 7, 11, 3, 8],
        [1, 65, 66, 2, 20],
        [3, 5, 67, 2, 7],
        [2, 33, 68, 4, 32],
        [1, 64, 129, 1, 36],
        [1, 100, 850, 8, 32],
        [1, 70, 3, 2, 65],
        [2, 1, 300, 2, 16],
        [1, 300, 1, 2, 4],
        [1, 66, 72, 2, 64],
    ];
    shapes.into_iter().enumerate().flat_map(|(i, shape)| cases_of(shape, i as u64)).collect()
}

fn cases_of([b, n, s, heads, d]: [usize; 5], seed: u64) -> Vec<Case> {
    let [q, k] = [(n, 1), (s, 2)].map(|(length, i)| ([b, length, heads * d], seed + i));
    let (map, state) = ([b, heads, n, s], test_state(heads, 0.02, None, seed));
    let codes = |(shape, seed): ([usize; 3], u64)| test_codes(shape, 1.0, seed);
    let floats = |(shape, seed): ([usize; 3], u64)| noise(shape, seed);
    let mix = |transposed| Mix { heads, scale: 0.5, transposed, dropout: None };
    let scores = Scores { heads, scale: 0.5, behind: Behind::Nothing };
    let ops = [
        (HeadValues::keys_of_scores(scores), [floats(q), codes(k)], d),
        (HeadValues::map_of_mix(mix(false)), [test_codes(map, 1.0, seed), floats(k)], s),
        (HeadValues::map_of_mix(mix(true)), [test_codes(map, 1.0, seed), floats(q)], n),
        (HeadValues::tokens_of_mix(mix(false)), [noise(map, seed), codes(k)], s),
        (HeadValues::tokens_of_mix(mix(true)), [noise(map, seed), codes(q)], n),
    ];
    let mut cases = Vec::new();
    for (op, [a, b], terms) in ops {
        // Values of up to 255 steps.
        let close = Tolerance { absolute: 1e-5 + 5e-6 * (terms as f32).sqrt(), relative: 4e-6 };
        let case = Case::new(op, vec![a, b, state.clone()], close);
        let mut half = Case { tolerance: Tolerance { absolute: 1e-2, relative: 2e-3 }, ..case.clone() };
        half.inputs[1 - op.codes] = half.inputs[1 - op.codes].clone().cast(DType::F16);
        cases.extend([half, case]);
    }
    cases
}
