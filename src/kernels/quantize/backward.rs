//! The straight-through gradients of a quantizer, in one pass over x and the gradient of its codes.
//!
//! `(x [..], state [G, 4], d [..]) -> (d_x like x, sums [parts, 4 G])`: each part sums the gradients of its share of each step size's
//! elements, in the columns of the state, without the factor g; [`sums_of_state`] adds the parts. x and d are f32 or f16 each.
//!
//! Where x is read by more than the quantizer, and where it comes from an activation, d_x can be more than the quantizer's share: a
//! fourth input, another gradient like x, is added, and the sum goes back through the activation. Of a ReLU with a dropout behind it, or a
//! softmax with one, what they let pass is what is above zero behind both: such a dropout is a factor. That appears when graphs are fused.
//! Where nothing before the quantizer learns, there is no d_x.
//!
//! Where x is what other codes stand for, these are read in its place, a byte each: x is i8 then, d_x of the type that x would be, and the state
//! f32 `[1, 4]` of these codes one more input, the last.
//!
//! On an H100 (`qdetr bench train --preset detr-resnet50 --batch 8 --precision f16 --bits 4-4-8 --profile`, 2026-11-26) tensors of more than 100 MB
//! are read and written at 2.4 to 2.7 TB/s, of 2.87 for a copy; one of 12 MB takes 11 µs, of which 5 are what the least step takes, and half of
//! all are smaller than that. Tried and left: workgroups of 32, 64 and 128 for tensors of up to 2 M elements (12.2, 11.3 and 11.1 µs), up to
//! 16 M (64: the same; 128: 3 % longer) and beyond (128: 10 % longer).

use super::codes::{Granular, Quantize, test_shapes, test_state, test_x};
use super::values::{Dequantize, divides, test_codes};
use super::{GROUP, Levels, QuantizerState};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Op, Var, ids};
use crate::kernels::epilogue::Activation;
use crate::kernels::reduce::ColumnSums;
use crate::kernels::rows;
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, Shape, TensorType};
use crate::wgsl;

/// Elements that an invocation takes at a time: four pieces, whose loads are under way together.
const STEP: usize = 16;

/// The gradients of a [`Quantize`]; see the module.
#[derive(Clone, Copy, Debug)]
pub struct QuantizeBackward {
    /// Bits of a code: 2 to 8.
    pub bits: u32,
    /// Whether half of the levels are negative.
    pub signed: bool,
    /// Neighbouring elements that share a step size.
    pub inner: usize,
    /// Whether d_x is a result.
    pub d_x: bool,
    /// Another gradient of x is added.
    pub added: bool,
    /// What gave x: d_x is the gradient of its input.
    pub activation: Activation,
    /// Factor of what goes through that: a ReLU's, where a dropout is behind it.
    pub factor: f32,
    /// x is given as codes, whose values have this type.
    pub of_codes: Option<DType>,
}

/// How the elements of each step size are shared out.
#[derive(Clone, Copy)]
struct Shares {
    groups: usize,
    /// Neighbouring elements that share a step size.
    run: usize,
    parts: usize,
    /// Elements of a step size in one part: whole steps, so that no invocation is idle but at the end.
    chunk: usize,
    /// Invocations of a part, a workgroup.
    lanes: usize,
}

impl QuantizeBackward {
    pub(super) fn of(Quantize { bits, signed, inner }: Quantize, d_x: bool) -> Self {
        Self { bits, signed, inner, d_x, added: false, activation: Activation::None, factor: 1.0, of_codes: None }
    }

    /// Which result is the sums.
    pub(crate) fn sums(self) -> usize {
        usize::from(self.d_x)
    }

    fn forward(self) -> Quantize {
        Quantize { bits: self.bits, signed: self.signed, inner: self.inner }
    }

    /// The type of x, or of what its codes stand for.
    fn values(self, x: TensorType) -> TensorType {
        TensorType { dtype: self.of_codes.unwrap_or(x.dtype), ..x }
    }

    /// Whether there is a kernel for an x of these elements that is given as codes: it reads whole words.
    pub(crate) fn suits_codes(self, x: Shape, groups: usize) -> bool {
        self.of_codes.is_none() && self.forward().run(x, groups).is_multiple_of(4)
    }

    /// Whether the gradient goes through the activation that gave x.
    fn passes(self, x: f32) -> bool {
        match self.activation {
            Activation::None => true,
            Activation::Relu => x > 0.0,
            Activation::Relu6 => x > 0.0 && x < 6.0,
        }
    }

    /// Enough workgroups for a large GPU, each with some passes of work; of little, as many as there is work for.
    fn shares(self, x: TensorType, groups: usize) -> Shares {
        let elements = x.shape.len() / groups;
        // Of little, small workgroups, so that more processors have one.
        let lanes = if x.shape.len() <= 1 << 18 || elements < STEP * GROUP { 32 } else { GROUP };
        let chunk = STEP * lanes * elements.div_ceil(STEP * lanes * 2048usize.div_ceil(groups));
        Shares { groups, run: self.forward().run(x.shape, groups), parts: elements.div_ceil(chunk), chunk, lanes }
    }

    fn kernel(self, inputs: &[TensorType], width: usize) -> Dispatch {
        let (x, d, levels) = (inputs[0], inputs[2], self.forward().levels());
        let Shares { groups, run, parts, chunk, lanes } = self.shares(x, inputs[1].shape.rows());
        let words = Words::of([x.shape.len() / groups / width, run / width, groups, parts, chunk / width]);
        let dispatch = match self.of_codes {
            None => Dispatch::new(wgsl!("quantize/backward.wgsl"), inputs.len()).part(wgsl!("quantize/x_values.wgsl")),
            Some(to) => Dispatch::new(wgsl!("quantize/backward.wgsl"), inputs.len())
                .flag("HALF", to == DType::F16)
                .constant("AT_CODES_STATE", inputs.len())
                .part(wgsl!("quantize/x_codes.wgsl")),
        };
        let dispatch = dispatch
            .wide("wide_x", self.values(x).dtype, width)
            .wide("wide_d", d.dtype, width)
            .constant("GROUP", lanes)
            .constant("LANES", lanes)
            .params([levels.low() as f32, levels.high() as f32, self.factor].into_iter().fold(words, Words::float))
            .constant("ACTIVATION", self.activation as usize)
            .constant("AT_SUMS", inputs.len() + 1 + self.sums())
            .part(if self.d_x { wgsl!("quantize/d_x.wgsl") } else { wgsl!("quantize/no_d_x.wgsl") })
            .part(if self.added { wgsl!("quantize/other.wgsl") } else { wgsl!("quantize/no_other.wgsl") })
            .over_groups(groups * parts);
        rows::lanes(dispatch, width)
    }
}

impl Op for QuantizeBackward {
    fn name(&self) -> &'static str {
        "quantize_backward"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [x, state, d, other @ ..] = inputs else { panic!("quantize_backward: wants x, state and d, found {}", ids(inputs)) };
        let (given, x) = (x, self.values(*x));
        let is_given = self.of_codes.is_none_or(|to| given.dtype == DType::I8 && to.is_float());
        let wanted = self.added.then_some(x).into_iter().chain(self.of_codes.map(|_| TensorType::f32([1, 4])));
        let fits = other.iter().copied().eq(wanted)
            && is_given
            && (self.d_x || !self.added)
            && (self.factor == 1.0 || self.activation == Activation::Relu)
            && x.dtype.is_float()
            && divides(self.inner, x.shape, *state)
            && d.dtype.is_float()
            && d.shape == x.shape;
        assert!(fits, "quantize_backward: {self:?} wants floats x, its state f32[G, 4] and floats d like x, found {}", ids(inputs));
        let groups = state.shape.rows();
        let sums = TensorType::f32([self.shares(x, groups).parts, 4 * groups]);
        self.d_x.then_some(x).into_iter().chain([sums]).collect()
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        if let Some(to) = self.of_codes {
            let (codes, state) = (inputs[0], inputs[inputs.len() - 1]);
            let x = Dequantize { inner: 1, to }.reference(&[codes, state], &[self.values(codes.ty())]);
            let inputs = [&[&x[0]], &inputs[1..inputs.len() - 1]].concat();
            return Self { of_codes: None, ..*self }.reference(&inputs, outputs);
        }
        let (x, state, d, levels) = (inputs[0].to_f32(), inputs[1].to_f32(), inputs[2].to_f32(), self.forward().levels());
        let Shares { groups, run, chunk, .. } = self.shares(inputs[0].ty(), state.len() / 4);
        let mut sums = vec![0f64; outputs[self.sums()].shape.len()];
        let mut d_x = vec![0.0; x.len()];
        let other = inputs.get(3).map(|other| other.to_f32());
        for (i, (&x, &d)) in x.iter().zip(d.iter()).enumerate() {
            let (group, element) = (i / run % groups, i / run / groups * run + i % run);
            let state = &state[4 * group..][..4];
            let sums = &mut sums[(element / chunk * groups + group) * 4..][..4];
            let u = levels.scaled(x, state);
            let q = levels.nearest(u);
            let inside = (levels.low() as f32..=levels.high() as f32).contains(&u);
            let gradient = if inside { d } else { 0.0 } + other.as_ref().map_or(0.0, |other| other[i]);
            d_x[i] = if self.passes(x) { gradient * self.factor } else { 0.0 };
            sums[0] += f64::from(d) * f64::from(q - if inside { u } else { state[2] });
            sums[2] -= if inside { 0.0 } else { f64::from(state[0]) * f64::from(d) };
        }
        let sums = sums.into_iter().map(|s| s as f32).collect();
        let results = self.d_x.then_some(d_x).into_iter().chain([sums]);
        outputs.iter().zip(results).map(|(&ty, result)| Host::from_f32(ty, result)).collect()
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let run = self.forward().run(inputs[0].shape, inputs[1].shape.rows());
        let single = self.of_codes.is_none().then_some(1);
        run.is_multiple_of(4).then_some(4).into_iter().chain(single).map(|width| self.kernel(inputs, width)).collect()
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
        let plain = QuantizeBackward::of(Quantize { bits, signed, inner }, true);
        let activation = [Activation::Relu, Activation::None, Activation::Relu6][i % 3];
        let joined = QuantizeBackward { added: i % 5 != 0, activation, factor: if i % 3 == 0 { 1.25 } else { 1.0 }, ..plain };
        let other = joined.added.then(|| noise(&shape, i as u64 + 180));
        let joined = Case::new(joined, inputs.iter().cloned().chain(other).collect(), tolerance);
        cases.push(joined.clone());
        if i % 2 == 0 {
            // The state stays in f32.
            let mut half = joined.in_f16(Tolerance { relative: 1e-3, absolute: tolerance.absolute.max(2e-3) });
            half.inputs[1] = joined.inputs[1].clone();
            cases.push(half);
        }
        cases.push(Case::new(QuantizeBackward { d_x: false, ..plain }, inputs.clone(), tolerance));
        if plain.suits_codes(Shape::new(&shape), groups) {
            let codes = test_codes(&shape, Levels::new(8, signed), i as u64);
            let through = [DType::F32, DType::F16][i % 2];
            let added = i % 3 == 0;
            let other = added.then(|| noise(&shape, i as u64 + 180).cast(through));
            let fine = test_state(QuantizerState { bits: 8, signed }, 1, 7, true).to_f32().to_vec();
            let alpha = 0.15 * (1 << bits) as f32 / 128.0;
            let fine = Host::f32([1, 4], [&[alpha, 1.0 / alpha], &fine[2..]].concat());
            let given = [codes, inputs[1].clone(), inputs[2].clone()].into_iter().chain(other).chain([fine]).collect();
            let tolerance =
                if through == DType::F16 { Tolerance { relative: 1e-3, absolute: tolerance.absolute.max(2e-3) } } else { tolerance };
            cases.push(Case::new(QuantizeBackward { added, of_codes: Some(through), ..plain }, given, tolerance));
        }
        let case = Case::new(plain, inputs, tolerance);
        let mut half = Case { tolerance: Tolerance { relative: 1e-3, ..tolerance }, ..case.clone() };
        half.inputs[2] = half.inputs[2].clone().cast(DType::F16);
        if i % 2 == 0 {
            half.inputs[0] = half.inputs[0].clone().cast(DType::F16);
            cases.push(Case::new(QuantizeBackward { d_x: false, ..plain }, half.inputs.clone(), half.tolerance));
        }
        cases.extend([half, case]);
    }
    cases
}
