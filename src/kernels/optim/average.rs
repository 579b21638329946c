//! Exponential moving average of the parameters.

use super::{TEST_SIZES, check_pair, over_arena};
use crate::gpu::{Capabilities, Dispatch};
use crate::graph::Op;
use crate::graph::check::{Case, noise};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

/// `(average, x, rate [1]) -> average + rate · (x − average)`, in place: the rate is 1 less the decay.
#[derive(Clone, Copy, Debug)]
pub struct Average;

impl Op for Average {
    fn name(&self) -> &'static str {
        "average"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        check_pair("average", inputs, DType::F32);
        vec![inputs[0]]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (average, x, rate) = (inputs[0].to_f32(), inputs[1].to_f32(), inputs[2].to_f32()[0]);
        vec![Host::from_f32(outputs[0], average.iter().zip(x.iter()).map(|(a, x)| a + rate * (x - a)).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        vec![over_arena(Dispatch::new(wgsl!("optim/average.wgsl"), 3).bind([1, 2]), inputs[0].shape.len(), |words| words)]
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0)]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        3 * inputs[0].shape.len() as u64
    }
}

/// Cases of the op table.
pub(super) fn cases() -> Vec<Case> {
    let case = |(i, n): (usize, usize)| {
        let rate = Host::f32([1], vec![[0.001, 0.0, 1.0][i % 3]]);
        Case::new(Average, vec![noise([n], i as u64), noise([n], 10 + i as u64), rate], Tolerance::of(1e-6))
    };
    TEST_SIZES.into_iter().enumerate().map(case).collect()
}
