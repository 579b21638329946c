//! Gradient accumulation: a batch too large for the memory in several parts.

use super::{BLOCK, TEST_SIZES, check_pair, over_arena};
use crate::gpu::{Capabilities, Dispatch};
use crate::graph::Op;
use crate::graph::check::{Case, noise};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

/// `(sum, x, keep u32 [1]) -> sum + x`, in place; x alone when keep is 0: the first part of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Accumulate;

impl Op for Accumulate {
    fn name(&self) -> &'static str {
        "accumulate"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        check_pair("accumulate", inputs, DType::U32);
        vec![inputs[0]]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (sum, x, keep) = (inputs[0].to_f32(), inputs[1].to_f32(), inputs[2].as_u32()[0] != 0);
        vec![Host::from_f32(outputs[0], sum.iter().zip(x.iter()).map(|(sum, x)| if keep { sum + x } else { *x }).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        vec![over_arena(Dispatch::new(wgsl!("optim/accumulate.wgsl"), 3).bind([1, 2]), inputs[0].shape.len(), |words| words)]
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0)]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        inputs[0].shape.len() as u64
    }
}

/// Cases of the op table.
pub(super) fn cases() -> Vec<Case> {
    let case = |(i, n): (usize, usize)| {
        let keep = Host::u32([1], vec![(i % 2) as u32]);
        Case::new(Accumulate, vec![noise([n], i as u64), noise([n], 10 + i as u64), keep], Tolerance::of(1e-6))
    };
    let mut cases: Vec<Case> = TEST_SIZES.into_iter().enumerate().map(case).collect();
    // What was there before the first part may be anything.
    let wild = Host::f32([BLOCK], vec![f32::NAN; BLOCK]);
    cases.push(Case::new(Accumulate, vec![wild, noise([BLOCK], 1), Host::u32([1], vec![0])], Tolerance::EXACT));
    cases
}
