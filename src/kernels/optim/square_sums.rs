//! The sum of squares of an arena in parts, and whether everything in it is finite.

use super::{GROUP, TEST_SIZES, WIDTH, is_arena};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Op, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{Host, TensorType};
use crate::wgsl;

/// Elements that a workgroup adds up.
const CHUNK: usize = 64 * GROUP;

/// `x [n] -> [parts, 2]`: for the next 16,384 elements each, `Σ x²` over the finite ones and the number of the others.
#[derive(Clone, Copy, Debug)]
pub struct SquareSums;

impl Op for SquareSums {
    fn name(&self) -> &'static str {
        "square_sums"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        assert!(matches!(inputs, [x] if is_arena(x)), "square_sums: wants an arena f32 [n], found {}", ids(inputs));
        vec![TensorType::f32([inputs[0].shape.len().div_ceil(CHUNK), 2])]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let part = |x: &[f32]| {
            let finite = x.iter().filter(|v| v.is_finite());
            let count = x.len() - finite.clone().count();
            [finite.map(|&v| f64::from(v).powi(2)).sum::<f64>() as f32, count as f32]
        };
        vec![Host::from_f32(outputs[0], inputs[0].to_f32().chunks(CHUNK).flat_map(part).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let parts = outputs[0].shape.rows();
        let kernel = Dispatch::new(wgsl!("optim/square_sums.wgsl"), 1)
            .constant("GROUP", GROUP)
            .constant("CHUNK", CHUNK / WIDTH)
            .params(Words::of([inputs[0].shape.len() / WIDTH, parts]))
            .over_groups(parts);
        vec![kernel]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        2 * inputs[0].shape.len() as u64
    }
}

/// Cases of the op table.
pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = TEST_SIZES.iter().map(|&n| Case::new(SquareSums, vec![noise([n], n as u64)], Tolerance::of(1e-5))).collect();
    // Infinities and NaNs of both signs, at both ends; f16 gradients overflow exactly like this.
    let mut wild = noise([TEST_SIZES[4]], 7).to_f32().into_owned();
    let last = wild.len() - 1;
    for (i, v) in [(0, f32::INFINITY), (1, f32::NEG_INFINITY), (2, f32::NAN), (3, -f32::NAN), (last, f32::NAN), (last - 1, f32::INFINITY)] {
        wild[i] = v;
    }
    cases.push(Case::new(SquareSums, vec![Host::f32([wild.len()], wild)], Tolerance::of(1e-5)));
    cases
}
