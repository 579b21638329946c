//! The straight-through gradients of a quantizer, in one pass over x and the gradient of its codes.
//!
//! `(x [..], state [G, 4], d [..]) -> (d_x like x, sums [parts, 4 G])`: each part sums the gradients of its share of each step size's
//! elements, in the columns of the state, without the factor g; [`sums_of_state`] adds the parts. x and d are f32 or f16 each.

use super::codes::{Granular, Quantize, test_shapes, test_state, test_x};
use super::values::divides;
use super::{GROUP, Levels, QuantizerState};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Op, Var, ids};
use crate::kernels::reduce::ColumnSums;
use crate::kernels::rows::lanes;
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

/// The gradients of a [`Quantize`]; see the module.
#[derive(Clone, Copy, Debug)]
pub struct QuantizeBackward {
    /// Bits of a code: 2 to 8.
    pub bits: u32,
    /// Whether half of the levels are negative.
    pub signed: bool,
    /// Neighbouring elements that share a step size.
    pub inner: usize,
}

/// How the elements of each step size are shared out.
#[derive(Clone, Copy)]
struct Shares {
    groups: usize,
    /// Neighbouring elements that share a step size.
    run: usize,
    parts: usize,
    /// Elements of a step size in one part: a multiple of four.
    chunk: usize,
}

impl QuantizeBackward {
    pub(super) fn of(Quantize { bits, signed, inner }: Quantize) -> Self {
        Self { bits, signed, inner }
    }

    fn forward(self) -> Quantize {
        Quantize { bits: self.bits, signed: self.signed, inner: self.inner }
    }

    /// Enough workgroups for a large GPU, each with some passes of work.
    fn shares(self, x: TensorType, groups: usize) -> Shares {
        let elements = x.shape.len() / groups;
        let parts = elements.div_ceil(8 * GROUP).min(2048usize.div_ceil(groups));
        Shares { groups, run: self.forward().run(x.shape, groups), parts, chunk: elements.div_ceil(parts).next_multiple_of(4) }
    }

    /// Invocations for a part: some four steps of four pieces each, in whole groups that run together.
    fn lanes(chunk: usize, width: usize) -> usize {
        (chunk / width).div_ceil(16).next_power_of_two().clamp(32, GROUP)
    }

    fn kernel(self, inputs: &[TensorType], width: usize) -> Dispatch {
        let (x, d, levels) = (inputs[0], inputs[2], self.forward().levels());
        let Shares { groups, run, parts, chunk } = self.shares(x, inputs[1].shape.rows());
        let lanes_of_part = Self::lanes(chunk, width);
        let words = Words::of([x.shape.len() / groups / width, run / width, groups, parts, chunk / width]);
        let dispatch = Dispatch::new(wgsl!("quantize/backward.wgsl"), 3)
            .wide("wide_x", x.dtype, width)
            .wide("wide_d", d.dtype, width)
            .constant("GROUP", GROUP)
            .constant("LANES", lanes_of_part)
            .params(words.float(levels.low() as f32).float(levels.high() as f32))
            .over_groups((groups * parts).div_ceil(GROUP / lanes_of_part));
        lanes(dispatch, width)
    }
}

impl Op for QuantizeBackward {
    fn name(&self) -> &'static str {
        "quantize_backward"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [x, state, d] = inputs else { panic!("quantize_backward: wants x, state and d, found {}", ids(inputs)) };
        let fits = x.dtype.is_float() && divides(self.inner, x.shape, *state) && d.dtype.is_float() && d.shape == x.shape;
        assert!(fits, "quantize_backward: {self:?} wants floats x, its state f32[G, 4] and floats d like x, found {}", ids(inputs));
        let groups = state.shape.rows();
        vec![*x, TensorType::f32([self.shares(*x, groups).parts, 4 * groups])]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (x, state, d, levels) = (inputs[0].to_f32(), inputs[1].to_f32(), inputs[2].to_f32(), self.forward().levels());
        let Shares { groups, run, chunk, .. } = self.shares(outputs[0], state.len() / 4);
        let mut sums = vec![0f64; outputs[1].shape.len()];
        let mut d_x = vec![0.0; x.len()];
        for (i, (&x, &d)) in x.iter().zip(d.iter()).enumerate() {
            let (group, element) = (i / run % groups, i / run / groups * run + i % run);
            let state = &state[4 * group..][..4];
            let sums = &mut sums[(element / chunk * groups + group) * 4..][..4];
            let u = levels.scaled(x, state);
            let q = levels.nearest(u);
            let inside = (levels.low() as f32..=levels.high() as f32).contains(&u);
            d_x[i] = if inside { d } else { 0.0 };
            sums[0] += f64::from(d) * f64::from(q - if inside { u } else { state[2] });
            sums[2] -= if inside { 0.0 } else { f64::from(state[0]) * f64::from(d) };
        }
        let sums = sums.into_iter().map(|s| s as f32).collect();
        vec![Host::from_f32(outputs[0], d_x), Host::from_f32(outputs[1], sums)]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let run = self.forward().run(inputs[0].shape, inputs[1].shape.rows());
        run.is_multiple_of(4).then_some(4).into_iter().chain([1]).map(|width| self.kernel(inputs, width)).collect()
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        12 * inputs[0].shape.len() as u64
    }
}

/// The gradient of a state from the sums of the parts: their sum times `g = 1 / √(n · high)` with n all elements of x.
pub(super) fn sums_of_state(graph: &mut Graph, levels: Levels, x: Var, sums: Var) -> Var {
    let scale = 1.0 / (graph.shape(x).len() as f64 * f64::from(levels.high())).sqrt();
    let groups = graph.shape(sums).last() / 4;
    let sums = graph.apply(ColumnSums { parts: 1, scale: scale as f32, to: DType::F32 }, &[sums]);
    graph.reshape(sums, [groups, 4])
}

pub(super) fn cases() -> Vec<Case> {
    let mut shapes = test_shapes();
    // Several parts, the last ones shorter; more step sizes than workgroups that a GPU needs.
    shapes.push(Granular { shape: vec![3, 5, 7, 121], groups: 1, inner: 1 });
    shapes.push(Granular { shape: vec![1, 2, 100, 50], groups: 2, inner: 5000 });
    shapes.push(Granular { shape: vec![2049, 12], groups: 2049, inner: 12 });
    shapes.push(Granular { shape: vec![16, 300, 64], groups: 8, inner: 8 });
    let mut cases = Vec::new();
    for (i, Granular { shape, groups, inner }) in shapes.into_iter().enumerate() {
        let (bits, signed) = (2 + (i % 7) as u32, i % 3 == 0);
        let state = test_state(QuantizerState { bits, signed }, groups, i as u64, i % 4 != 0);
        let inputs = vec![test_x(&shape, bits, i as u64), state, noise(&shape, i as u64 + 90)];
        // Sums of up to thousands of terms of the size of the levels.
        let tolerance = Tolerance { absolute: 2e-5 * (1 << bits) as f32, relative: 1e-5 };
        let case = Case::new(QuantizeBackward { bits, signed, inner }, inputs, tolerance);
        let mut half = Case { tolerance: Tolerance { relative: 1e-3, ..tolerance }, ..case.clone() };
        half.inputs[2] = half.inputs[2].clone().cast(DType::F16);
        if i % 2 == 0 {
            half.inputs[0] = half.inputs[0].clone().cast(DType::F16);
        }
        cases.extend([half, case]);
    }
    cases
}
