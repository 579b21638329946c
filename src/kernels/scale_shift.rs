//! A factor and a summand for each channel: what a frozen batch norm does.
//!
//! `y[.., c] = x[.., c] · scale[c] + shift[c]`; x any shape with C last, scale and shift `[C]`, which may stay `f32` while x
//! is `f16`. [`frozen_norm`] makes scale and shift of the four buffers of a batch norm whose statistics do not move.
//! Saved for backward: x and scale.

use super::{binary, reduce, rows::width_of};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, Shape, TensorType};
use crate::wgsl;
use std::sync::Arc;

const GROUP: usize = 256;

/// `y = x · scale + shift`, channel by channel.
#[derive(Clone, Copy, Debug)]
pub struct ScaleShift;

impl ScaleShift {
    fn kernel(x: TensorType, scale: TensorType, width: usize) -> Dispatch {
        let n = x.shape.len() / width;
        Dispatch::new(wgsl!("scale_shift.wgsl"), 3)
            .wide("wide_x", x.dtype, width)
            .wide("wide_s", scale.dtype, width)
            .wide("wide", DType::F32, width)
            .constant("GROUP", GROUP)
            .params(Words::of([n, x.shape.last() / width]))
            .over_items(n, GROUP)
    }
}

impl Op for ScaleShift {
    fn name(&self) -> &'static str {
        "scale_shift"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [x, scale, shift] = inputs else { panic!("scale_shift: wants x, scale and shift, found {}", ids(inputs)) };
        let fits = x.dtype.is_float() && scale.dtype.is_float() && scale.shape == Shape::new([x.shape.last()]) && shift == scale;
        assert!(fits, "scale_shift: wants x [.., C], scale [C] and shift like it, found {}", ids(inputs));
        vec![*x]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (x, scale, shift) = (inputs[0].to_f32(), inputs[1].to_f32(), inputs[2].to_f32());
        let y = x.iter().enumerate().map(|(i, &x)| x * scale[i % scale.len()] + shift[i % scale.len()]).collect();
        vec![Host::from_f32(outputs[0], y)]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        width_of(inputs[0].shape.last()).map(|width| Self::kernel(inputs[0], inputs[1], width)).collect()
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], wanted: &[bool]) -> Vec<Option<Var>> {
        let Some(d_y) = d_outputs[0] else { return vec![None; 3] };
        let (x, scale) = (io.inputs[0], io.inputs[1]);
        let to = graph.ty(scale).dtype;
        let d_x = wanted[0].then(|| binary::mul(graph, d_y, scale));
        let d_scale = wanted[1].then(|| {
            let product = binary::mul(graph, d_y, x);
            reduce::column_sums(graph, product, to)
        });
        let d_shift = wanted[2].then(|| reduce::column_sums(graph, d_y, to));
        vec![d_x, d_scale, d_shift]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        2 * inputs[0].shape.len() as u64
    }
}

/// The scale and shift of a batch norm with fixed statistics: `scale = weight / √(variance + eps)`,
/// `shift = bias − mean · scale`. Four inputs and two outputs, all `[C]`.
///
/// It has no gradient: what is frozen is not trained.
#[derive(Clone, Copy, Debug)]
pub struct FrozenNorm {
    /// Added to the variance.
    pub eps: f32,
}

impl Op for FrozenNorm {
    fn name(&self) -> &'static str {
        "frozen_norm"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let fits = inputs.len() == 4 && inputs[0].shape.rank() == 1 && inputs[0].dtype.is_float() && inputs.iter().all(|t| *t == inputs[0]);
        assert!(fits, "frozen_norm: wants weight, bias, mean and variance, all [C], found {}", ids(inputs));
        vec![inputs[0]; 2]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let [weight, bias, mean, variance] = [0, 1, 2, 3].map(|i| inputs[i].to_f32());
        let scale: Vec<f32> = weight.iter().zip(variance.iter()).map(|(w, v)| w / (v + self.eps).sqrt()).collect();
        let shift = (0..scale.len()).map(|c| bias[c] - mean[c] * scale[c]).collect();
        vec![Host::from_f32(outputs[0], scale), Host::from_f32(outputs[1], shift)]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let n = inputs[0].shape.len();
        let kernel = Dispatch::new(wgsl!("frozen_norm.wgsl"), 4)
            .element("element", inputs[0].dtype)
            .constant("GROUP", GROUP)
            .params(Words::of([n]).float(self.eps))
            .over_items(n, GROUP);
        vec![kernel]
    }
}

/// `x · scale + shift`, channel by channel.
pub fn scale_shift(g: &mut Graph, x: Var, scale: Var, shift: Var) -> Var {
    g.apply(ScaleShift, &[x, scale, shift])
}

/// Scale and shift `[C]` of a batch norm whose statistics are fixed.
pub fn frozen_norm(g: &mut Graph, weight: Var, bias: Var, mean: Var, variance: Var, eps: f32) -> (Var, Var) {
    let outputs = g.apply_all(Arc::new(FrozenNorm { eps }), &[weight, bias, mean, variance]);
    (outputs[0], outputs[1])
}

/// Cases of the op table.
pub fn cases() -> Vec<Case> {
    let shapes: [&[usize]; 8] = [&[1], &[7], &[257, 1], &[3, 64], &[5, 7, 11, 13], &[2, 9, 16], &[1, 1, 1, 1021], &[850, 4]];
    let mut cases = Vec::new();
    for (i, shape) in shapes.into_iter().enumerate() {
        let (seed, c) = (i as u64, shape[shape.len() - 1]);
        let inputs = vec![noise(shape, seed), noise([c], seed + 50), noise([c], seed + 90)];
        let case = Case::new(ScaleShift, inputs, Tolerance::of(1e-6));
        let half = case.in_f16(Tolerance::of(2e-3));
        let mut mixed = case.clone();
        (mixed.inputs[0], mixed.tolerance) = (half.inputs[0].clone(), half.tolerance);
        cases.extend([half, mixed, case]);
        let positive = |h: Host| Host::f32([c], h.to_f32().iter().map(|v| v.abs() + 0.01).collect());
        let inputs = vec![noise([c], seed), noise([c], seed + 10), noise([c], seed + 20), positive(noise([c], seed + 30))];
        let case = Case::new(FrozenNorm { eps: 1e-5 }, inputs, Tolerance::of(1e-5));
        cases.extend([case.in_f16(Tolerance::of(4e-3)), case]);
    }
    cases
}
