//! Producers of floats that write codes too: the work of the quantizers behind them, without a pass over memory of their own.
//!
//! [`Coded`]: the inputs of its producer, then the state of each quantizer; the floats, if they are kept, then the codes i8 of each
//! quantizer, in the shape of the floats. Codes are made from floats rounded to the element type that the producer gives, whether
//! they are kept or not: what is computed is what the producer and the quantizers compute one after the other.
//!
//! Behind sums and norms a quantizer has one step size, and there may be two of them; behind a softmax there is one, which may have
//! a step size for each head. It appears when graphs are fused, after their backward.

use super::binary::Binary;
use super::layer_norm::LayerNorm;
use super::quantize::Quantize;
use super::softmax::Softmax;
use crate::gpu::{Capabilities, Dispatch};
use crate::graph::check::Case;
use crate::graph::{Op, ids};
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;
use std::any::Any;
use std::sync::Arc;

/// What gives the floats.
#[derive(Clone, Copy, Debug)]
pub enum Producer {
    /// A function of two tensors.
    Binary(Binary),
    /// A normalization.
    LayerNorm(LayerNorm),
    /// An attention map.
    Softmax(Softmax),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Coded {
    /// What gives the floats.
    pub of: Producer,
    /// The quantizers of the floats.
    pub quantizers: Vec<Quantize>,
    /// Whether the floats are a result as well.
    pub keep: bool,
}

impl Producer {
    /// The producer that an op is.
    pub(crate) fn of(op: &dyn Op) -> Option<Self> {
        let op = op as &dyn Any;
        let binary = op.downcast_ref().copied().map(Self::Binary);
        binary.or_else(|| op.downcast_ref().copied().map(Self::LayerNorm)).or_else(|| op.downcast_ref().copied().map(Self::Softmax))
    }

    fn op(&self) -> &dyn Op {
        match self {
            Self::Binary(op) => op,
            Self::LayerNorm(op) => op,
            Self::Softmax(op) => op,
        }
    }

    /// How many quantizers fit beside what a kernel binds: WebGPU guarantees 8 storage buffers.
    pub(crate) fn most_quantizers(&self) -> usize {
        match self {
            Self::Softmax(_) => 1,
            Self::Binary(_) | Self::LayerNorm(_) => 2,
        }
    }

    /// Whether a kernel can write the codes of a quantizer with a state behind the given inputs: whole words of them.
    pub(crate) fn suits(&self, inputs: &[TensorType], quantizer: Quantize, state: TensorType) -> bool {
        let (x, groups) = (inputs[0].shape, state.shape.rows());
        match self {
            Self::Binary(_) => groups == 1 && inputs[1].shape.len().is_multiple_of(4),
            Self::LayerNorm(_) => groups == 1 && x.last().is_multiple_of(4),
            Self::Softmax(_) => x.len().is_multiple_of(4) && (groups == 1 || quantizer.inner.is_multiple_of(x.last())),
        }
    }
}

impl Coded {
    /// The inputs of the producer, and the states.
    fn split<'a, T>(&self, inputs: &'a [T]) -> (&'a [T], &'a [T]) {
        inputs.split_at(inputs.len().saturating_sub(self.quantizers.len()))
    }

    /// Adds to a kernel over vec4s, with the `inputs` that it binds, what stores its results: `store(i, v)`. The kernel has a function
    /// `no_bits`, the zero of the rounding barrier.
    fn store(&self, dispatch: Dispatch, inputs: usize, y: DType) -> Dispatch {
        let count = self.quantizers.len();
        let first = 1 + inputs + count + usize::from(self.keep);
        let mut dispatch = dispatch.bind((0..inputs + count).collect::<Vec<_>>());
        for (i, (name, quantizer)) in ["", "NEXT_"].into_iter().zip(&self.quantizers).enumerate() {
            let half = 1 << (quantizer.bits - 1);
            dispatch = dispatch
                .constant(&format!("AT_{name}STATE"), 1 + inputs + i)
                .constant(&format!("AT_{name}CODES"), first + i)
                .constant(&format!("{name}HALF"), half)
                .constant(&format!("{name}OFFSET"), if quantizer.signed { 0 } else { half });
        }
        let next = if count > 1 { wgsl!("store/next.wgsl") } else { wgsl!("store/no_next.wgsl") };
        self.kept(dispatch, 1 + inputs + count, y).part(next).part(wgsl!("store/codes.wgsl"))
    }

    /// Adds `keep(i, v)`, which stores floats or does not.
    fn kept(&self, dispatch: Dispatch, at: usize, y: DType) -> Dispatch {
        let dispatch = dispatch.flag("HALF_Y", y == DType::F16).element("element_y", y).constant("AT_Y", at);
        dispatch.part(if self.keep { wgsl!("store/keep.wgsl") } else { wgsl!("store/drop.wgsl") })
    }
}

impl Op for Coded {
    fn name(&self) -> &'static str {
        match self.of {
            Producer::Binary(_) => "binary_codes",
            Producer::LayerNorm(_) => "layer_norm_codes",
            Producer::Softmax(_) => "softmax_codes",
        }
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let (of, states) = self.split(inputs);
        let y = self.of.op().outputs(of)[0];
        let fits = (1..=self.of.most_quantizers()).contains(&self.quantizers.len())
            && self.quantizers.iter().zip(states).all(|(&quantizer, &state)| self.of.suits(of, quantizer, state));
        assert!(fits, "{}: wants states of {:?} that it can write codes of, found {}", self.name(), self.quantizers, ids(inputs));
        let codes = self.quantizers.iter().zip(states).flat_map(|(quantizer, &state)| quantizer.outputs(&[y, state]));
        self.keep.then_some(y).into_iter().chain(codes).collect()
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (of, states) = self.split(inputs);
        let types = self.of.op().outputs(&of.iter().map(|h| h.ty()).collect::<Vec<_>>());
        let y = self.of.op().reference(of, &types).remove(0);
        let codes = self.quantizers.iter().zip(states).zip(&outputs[usize::from(self.keep)..]);
        let codes: Vec<Host> = codes.flat_map(|((quantizer, state), &ty)| quantizer.reference(&[&y, state], &[ty])).collect();
        self.keep.then_some(y).into_iter().chain(codes).collect()
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let (of, states) = self.split(inputs);
        match self.of {
            Producer::Binary(op) => vec![self.store(op.kernel(of[0], of[1], 4), of.len(), of[0].dtype)],
            Producer::LayerNorm(op) => vec![self.store(op.kernel(of[0], of[1], 4), of.len(), of[0].dtype)],
            Producer::Softmax(op) => {
                // The state stands third, whether there is a mask or not; floats and codes behind it.
                let kernel = |d: Dispatch| self.kept(d, 4, of[0].dtype).constant("AT_CODES", 4 + usize::from(self.keep));
                op.kernels_with_codes(of, self.quantizers[0], states[0]).map(kernel).collect()
            }
        }
    }

    fn operations(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        let (of, _) = self.split(inputs);
        let codes = self.quantizers.len() as u64 * 5 * outputs[0].shape.len() as u64;
        self.of.op().operations(of, &self.of.op().outputs(of)) + codes
    }
}

/// An op on floats with quantizers behind it, as a node of a fused graph.
pub(crate) fn coded(of: Producer, quantizers: Vec<Quantize>, keep: bool) -> Arc<dyn Op> {
    Arc::new(Coded { of, quantizers, keep })
}

pub use cases::cases;
pub(super) use cases::clear_state;

mod cases {
    use super::*;
    use crate::graph::check::noise;
    use crate::kernels::binary::Function;
    use crate::kernels::softmax::test_mask;
    use crate::tensor::compare::Tolerance;

    /// What a producer gives may differ in the last bits between twin and device, and then codes at a tie do: the state of a
    /// quantizer under which no value comes closer to a tie than `margin` steps.
    pub(in super::super) fn clear_state(y: &Host, quantizer: Quantize, groups: usize, margin: f32) -> Host {
        let (values, run) = (y.to_f32(), y.shape().len() / groups);
        let run = if groups == 1 { run } else { quantizer.inner };
        let state = |group: usize| {
            let of_group = |i: &usize| i / run % groups == group;
            let mine: Vec<f32> = (0..values.len()).filter(of_group).map(|i| values[i]).collect();
            let largest = mine.iter().fold(1e-3f32, |a, v| a.max(v.abs()));
            let clear = |alpha: &f32| {
                let distance = |v: &f32| ((v / alpha).abs().fract() - 0.5).abs();
                mine.iter().all(|v| distance(v) > margin)
            };
            // From half of the levels that the values fill to twice as many, so that some are clipped.
            let steps = (1 << quantizer.bits) as f32;
            let alphas = (0..4000).map(|i| largest / steps * (1.0 + i as f32 / 2000.0));
            let alpha = alphas.into_iter().find(clear).expect("a step size without ties");
            let zero = if quantizer.signed { 1.0 } else { 3.0 };
            let offset = if quantizer.signed { 0.0 } else { (1 << (quantizer.bits - 1)) as f32 };
            [alpha, 1.0 / alpha, zero, zero - offset]
        };
        Host::f32([groups, 4], (0..groups).flat_map(state).collect())
    }

    /// A producer with one or two quantizers; the margin is that of f32 or f16.
    fn case(of: Producer, inputs: &[Host], quantizers: &[(Quantize, usize)], keep: bool, margin: f32, tolerance: Tolerance) -> Case {
        let refs: Vec<&Host> = inputs.iter().collect();
        let y = of.op().outputs(&inputs.iter().map(Host::ty).collect::<Vec<_>>());
        let y = of.op().reference(&refs, &y).remove(0);
        let states = quantizers.iter().map(|&(quantizer, groups)| clear_state(&y, quantizer, groups, margin));
        let inputs = inputs.iter().cloned().chain(states).collect();
        Case::new(Coded { of, quantizers: quantizers.iter().map(|q| q.0).collect(), keep }, inputs, tolerance)
    }

    /// Quantizers of different bits and signs, with a step size for each of some groups.
    fn quantizers(i: usize, count: usize) -> Vec<(Quantize, usize)> {
        let one = |turn: usize| (Quantize { bits: 2 + ((i + 2 * turn) % 4) as u32, signed: (i + turn).is_multiple_of(2), inner: 1 }, 1);
        (0..count).map(one).collect()
    }

    /// The case in f32, and in f16.
    fn both(of: Producer, inputs: &[Host], quantizers: &[(Quantize, usize)], keep: bool, error: f32) -> [Case; 2] {
        let full = case(of, inputs, quantizers, keep, 2e-4, Tolerance::of(error));
        let halves = full.in_f16(Tolerance::of(4e-3)).inputs;
        // Step sizes stay in f32, and the norm's parameters may.
        [full, case(of, &halves[..inputs.len()], quantizers, keep, 2e-3, Tolerance::of(4e-3))]
    }

    /// Cases of the op table.
    pub fn cases() -> Vec<Case> {
        let mut cases = Vec::new();
        let shapes: [(&[usize], usize); 5] = [(&[1, 4], 4), (&[7, 12], 12), (&[2, 3, 8], 24), (&[3, 20], 60), (&[5, 2, 4], 4)];
        for (i, (shape, repeated)) in shapes.into_iter().enumerate() {
            let (a, b) = (noise(shape, i as u64), noise([repeated], 50 + i as u64));
            let b = if repeated == a.shape().len() { b.reshape(shape) } else { b };
            let function = [Function::Add, Function::Mul, Function::Sub][i % 3];
            let b = if b.shape().rank() == 1 && repeated != a.shape().last() { b.reshape([shape[1], shape[2]]) } else { b };
            cases.extend(both(Producer::Binary(Binary { function }), &[a, b], &quantizers(i, 1 + i % 2), i % 3 != 1, 1e-6));
        }
        for (i, shape) in [[1, 4], [5, 12], [3, 36], [9, 16], [1, 132]].into_iter().enumerate() {
            let inputs = [noise(shape, i as u64), noise([shape[1]], 50 + i as u64), noise([shape[1]], 90 + i as u64)];
            let of = Producer::LayerNorm(LayerNorm { eps: 1e-5, unbiased: i == 3 });
            cases.extend(both(of, &inputs, &quantizers(i, 1 + i % 2), i % 3 != 1, 3e-5));
        }
        cases.extend(softmax_cases());
        cases
    }

    /// Rows of a length that four divides and does not, fewer and more than a workgroup takes, words across rows and heads, masks.
    fn softmax_cases() -> Vec<Case> {
        let shapes = [[1, 1, 1, 4], [1, 4, 3, 5], [2, 2, 2, 33], [1, 2, 7, 12], [1, 4, 1, 3], [2, 8, 1, 1], [1, 2, 1, 70], [2, 3, 5, 96]];
        let mut cases = Vec::new();
        for (i, shape) in shapes.into_iter().enumerate() {
            let x = noise(shape, i as u64).to_f32().iter().map(|v| v * 4.0).collect();
            let mut inputs = vec![Host::f32(shape, x)];
            if i % 2 == 1 {
                inputs.push(test_mask(shape[0], shape[3], i as u64, false));
            }
            let groups = if i % 3 == 0 { 1 } else { shape[1] };
            let quantizer = Quantize { bits: 3 + (i % 3) as u32, signed: i == 3, inner: shape[2] * shape[3] };
            cases.extend(both(Producer::Softmax(Softmax::default()), &inputs, &[(quantizer, groups)], i % 3 != 1, 1e-5));
            let keys = shape[3].saturating_sub(1 + i % 3);
            if shape[3].is_multiple_of(4) && keys > 0 {
                let padded = Softmax { keys: Some(keys) };
                inputs.truncate(1);
                inputs.extend((i % 2 == 1).then(|| test_mask(shape[0], keys, i as u64, false)));
                cases.extend(both(Producer::Softmax(padded), &inputs, &[(quantizer, groups)], false, 1e-5));
            }
        }
        cases
    }
}
