//! Producers of floats that write codes too: the work of the quantizers behind them, without a pass over memory of their own.
//!
//! [`Coded`]: the inputs of its producer, then what is added where some of the quantizers are of a sum, then the states of the
//! quantizers; the floats, if they are kept, then the codes i8: of one quantizer in the shape of the floats, of several
//! `[quantizers, elements]`. Codes are made from floats rounded to the element type that the producer gives, whether they are kept or
//! not: what is computed is what the producer, the sum and the quantizers compute one after the other.
//!
//! Behind a softmax or a dropout there is one quantizer, which may have a step size for each head. Behind other producers each has one
//! step size and they have the same levels. Their states are one tensor of a row each, or two tensors of one row. It appears when
//! graphs are fused, after their backward.

use super::binary::Binary;
use super::dropout::Dropout;
use super::layer_norm::LayerNorm;
use super::pool::MaxPool;
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
    /// Dropout, of a map or of tokens.
    Dropout(Dropout),
    /// A normalization.
    LayerNorm(LayerNorm),
    /// The largest values of windows.
    MaxPool(MaxPool),
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
    /// How many of them, the last ones, are of the floats plus one more input.
    pub of_sum: usize,
    /// Whether the floats are a result as well.
    pub keep: bool,
}

/// The inputs of a producer with quantizers.
struct Operands<'a, T> {
    of: &'a [T],
    addend: Option<&'a T>,
    states: &'a [T],
}

impl Producer {
    /// The producer that an op is.
    pub(crate) fn of(op: &dyn Op) -> Option<Self> {
        let op = op as &dyn Any;
        let binary = op.downcast_ref().copied().map(Self::Binary);
        let norm = || op.downcast_ref().copied().map(Self::LayerNorm);
        let pool = || op.downcast_ref().copied().map(Self::MaxPool);
        let dropout = || op.downcast_ref().copied().map(Self::Dropout);
        binary.or_else(norm).or_else(pool).or_else(dropout).or_else(|| op.downcast_ref().copied().map(Self::Softmax))
    }

    fn op(&self) -> &dyn Op {
        match self {
            Self::Binary(op) => op,
            Self::Dropout(op) => op,
            Self::LayerNorm(op) => op,
            Self::MaxPool(op) => op,
            Self::Softmax(op) => op,
        }
    }

    /// How many of the inputs in front of the states are the producer's, of so many.
    fn inputs(&self, before_states: usize) -> usize {
        match self {
            Self::Binary(_) | Self::Dropout(_) => 2,
            Self::LayerNorm(_) => 3,
            Self::MaxPool(_) => 1,
            Self::Softmax(_) => before_states,
        }
    }

    /// How many quantizers a kernel can write codes of, whose states are one tensor or not.
    pub(crate) fn most_quantizers(&self, one_state: bool) -> usize {
        match self {
            Self::Dropout(_) | Self::Softmax(_) => 1,
            _ if one_state => usize::MAX,
            _ => 2,
        }
    }

    /// Whether a kernel can write codes of a sum with something, which is of no more than the result and repeats evenly.
    pub(crate) fn suits_sums(&self) -> bool {
        matches!(self, Self::LayerNorm(_))
    }

    /// Whether a kernel can write the codes of a quantizer with so many step sizes behind the given inputs: whole words of them.
    pub(crate) fn suits(&self, inputs: &[TensorType], quantizer: Quantize, groups: usize) -> bool {
        let x = inputs[0].shape;
        match self {
            Self::Binary(_) => groups == 1 && inputs[1].shape.len().is_multiple_of(4),
            Self::Dropout(_) => x.len().is_multiple_of(4) && (groups == 1 || quantizer.inner.is_multiple_of(4)),
            Self::LayerNorm(_) | Self::MaxPool(_) => groups == 1 && x.last().is_multiple_of(4),
            Self::Softmax(_) => x.len().is_multiple_of(4) && (groups == 1 || quantizer.inner.is_multiple_of(x.last())),
        }
    }
}

impl Coded {
    /// The inputs of the producer, what is added, and the states.
    fn operands<'a, T>(&self, inputs: &'a [T]) -> Operands<'a, T> {
        let sums = usize::from(self.of_sum > 0);
        let (of, rest) = inputs.split_at(self.of.inputs(inputs.len().saturating_sub(1 + sums)).min(inputs.len()));
        let (addend, states) = rest.split_at(sums.min(rest.len()));
        Operands { of, addend: addend.first(), states }
    }

    /// Whether there is a kernel for such inputs.
    fn fits(&self, Operands { of, addend, states }: &Operands<'_, TensorType>, y: TensorType) -> bool {
        let (count, groups) = (self.quantizers.len(), states.iter().map(|state| state.shape.rows()).sum::<usize>());
        let alike = self.quantizers.iter().all(|q| q.levels() == self.quantizers[0].levels() && self.of.suits(of, *q, groups / count));
        let has_states = states.iter().all(|state| *state == TensorType::f32([state.shape.rows(), 4]))
            && if count == 1 { states.len() == 1 } else { groups == count && (states.len() == 1 || [states.len(), count] == [2, 2]) };
        let sum = addend
            .is_none_or(|addend| self.of.suits_sums() && Binary::ADD.outputs(&[y, *addend]) == [y] && addend.shape.len().is_multiple_of(4));
        (1..=self.of.most_quantizers(states.len() == 1)).contains(&count) && self.of_sum <= count && has_states && alike && sum
    }

    /// Adds to a kernel over vec4s what stores its results: `store(i, v)`. The kernel has the functions `no_bits`, the zero of the
    /// rounding barrier, and `words`, how many vec4s of results there are.
    fn store(&self, dispatch: Dispatch, operands: &Operands<'_, TensorType>, y: TensorType) -> Dispatch {
        let Operands { of, addend, states } = operands;
        let at_state = 1 + of.len() + usize::from(addend.is_some());
        let at_y = at_state + states.len();
        let dispatch = dispatch.bind((0..at_y - 1).collect::<Vec<_>>()).constant("AT_STATE", at_state);
        let groups = states[0].shape.rows();
        let dispatch = match self.quantizers[..] {
            // A kernel of its own for each length only where it needs one.
            [Quantize { inner, .. }] if groups > 1 => {
                dispatch.constant("RUN", inner / 4).constant("GROUPS", groups).part(wgsl!("store/states_in_turn.wgsl"))
            }
            _ if states.len() > 1 => dispatch.part(wgsl!("store/two_states.wgsl")),
            _ => dispatch.part(wgsl!("store/state.wgsl")),
        };
        self.store_under(dispatch, addend.map(|addend| (*addend, at_state - 1)), at_y, y)
    }

    /// The same for a kernel that also has the states of the quantizers, `state_of(q, i)`, with what is added and where it is bound.
    pub(super) fn store_under(&self, dispatch: Dispatch, addend: Option<(TensorType, usize)>, at_y: usize, y: TensorType) -> Dispatch {
        let levels = self.quantizers[0].levels();
        let dispatch = dispatch
            .constant("AT_CODES", at_y + usize::from(self.keep))
            .constant("QUANTIZERS", self.quantizers.len())
            .constant("PLAIN", self.quantizers.len() - self.of_sum)
            .constant("HALF", 1 << (levels.bits - 1))
            .constant("OFFSET", levels.offset() as usize);
        let dispatch = match addend {
            None => dispatch.part(wgsl!("store/no_sum.wgsl")),
            Some((addend, at_addend)) => {
                let repeats = addend.shape.len() < y.shape.len();
                dispatch
                    .element("element_addend", addend.dtype)
                    .constant("AT_ADDEND", at_addend)
                    .flag("REPEATS", repeats)
                    // A kernel of its own for each length only where it needs one.
                    .constant("ADDEND", if repeats { addend.shape.len() / 4 } else { 1 })
                    .part(wgsl!("store/sum.wgsl"))
            }
        };
        self.kept(dispatch, at_y, y.dtype).part(wgsl!("store/codes.wgsl"))
    }

    /// Adds `keep(i, v)`, which stores floats or does not.
    fn kept(&self, dispatch: Dispatch, at: usize, y: DType) -> Dispatch {
        let dispatch = dispatch.flag("HALF_Y", y == DType::F16).element("element_y", y).constant("AT_Y", at);
        dispatch.part(if self.keep { wgsl!("store/keep.wgsl") } else { wgsl!("store/drop.wgsl") })
    }
}

/// The type of the codes of some quantizers of a tensor.
pub(crate) fn codes_type(y: TensorType, quantizers: usize) -> TensorType {
    if quantizers == 1 { y.with_dtype(DType::I8) } else { TensorType::new([quantizers, y.shape.len()], DType::I8) }
}

/// The twin of several quantizers, each of some floats and with its row of the states, one behind the other.
pub(crate) fn codes_of_all<'a>(quantizers: impl Iterator<Item = (Quantize, &'a Host)>, states: &[f32], ty: TensorType) -> Host {
    let codes = quantizers.zip(states.chunks(4)).flat_map(|((quantizer, y), state)| {
        let state = Host::f32([1, 4], state.to_vec());
        quantizer.reference(&[y, &state], &[y.ty().with_dtype(DType::I8)])[0].as_i8().to_vec()
    });
    Host::i8(ty.shape.dims(), codes.collect())
}

impl Op for Coded {
    fn name(&self) -> &'static str {
        match self.of {
            Producer::Binary(_) => "binary_codes",
            Producer::Dropout(_) => "dropout_codes",
            Producer::LayerNorm(_) => "layer_norm_codes",
            Producer::MaxPool(_) => "max_pool_codes",
            Producer::Softmax(_) => "softmax_codes",
        }
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let operands = self.operands(inputs);
        let y = self.of.op().outputs(operands.of)[0];
        let fits = !self.quantizers.is_empty() && self.fits(&operands, y);
        assert!(fits, "{}: wants states of {:?} that it can write codes of, found {}", self.name(), self.quantizers, ids(inputs));
        self.keep.then_some(y).into_iter().chain([codes_type(y, self.quantizers.len())]).collect()
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let Operands { of, addend, states } = self.operands(inputs);
        let types = self.of.op().outputs(&of.iter().map(|h| h.ty()).collect::<Vec<_>>());
        let y = self.of.op().reference(of, &types).remove(0);
        let codes = if let [quantizer] = self.quantizers[..]
            && self.of_sum == 0
        {
            quantizer.reference(&[&y, states[0]], &outputs[outputs.len() - 1..]).remove(0)
        } else {
            let sum = addend.map(|addend| Binary::ADD.reference(&[&y, addend], &types).remove(0));
            let plain = self.quantizers.len() - self.of_sum;
            let sources = self.quantizers.iter().enumerate().map(|(i, &q)| (q, sum.as_ref().filter(|_| i >= plain).unwrap_or(&y)));
            let rows: Vec<f32> = states.iter().flat_map(|state| state.to_f32().to_vec()).collect();
            codes_of_all(sources, &rows, outputs[outputs.len() - 1])
        };
        self.keep.then_some(y).into_iter().chain([codes]).collect()
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let operands = self.operands(inputs);
        let of = operands.of;
        let y = self.of.op().outputs(of)[0];
        match self.of {
            Producer::Binary(op) => vec![self.store(op.kernel(of[0], of[1], 4), &operands, y)],
            Producer::Dropout(op) => vec![self.store(op.kernel(of[0], 4), &operands, y)],
            Producer::LayerNorm(op) => vec![self.store(op.kernel(of[0], of[1], 4), &operands, y)],
            Producer::MaxPool(op) => vec![self.store(op.kernel(of[0], y, 4), &operands, y)],
            Producer::Softmax(op) => {
                // The state stands third, whether there is a mask or not; floats and codes behind it.
                let kernel = |d: Dispatch| self.kept(d, 4, of[0].dtype).constant("AT_CODES", 4 + usize::from(self.keep));
                op.kernels_with_codes(of, self.quantizers[0], operands.states[0]).map(kernel).collect()
            }
        }
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        let of = self.operands(inputs).of;
        let y = self.of.op().outputs(of);
        self.of.op().operations(of, &y) + (5 * self.quantizers.len() * y[0].shape.len()) as u64
    }
}

/// An op on floats with quantizers behind it, as a node of a fused graph.
pub(crate) fn coded(of: Producer, quantizers: Vec<Quantize>, of_sum: usize, keep: bool) -> Arc<dyn Op> {
    Arc::new(Coded { of, quantizers, of_sum, keep })
}

/// The dropout that gives an op's floats, with quantizers behind it or without.
pub(crate) fn dropout_of(op: &dyn Op) -> Option<Dropout> {
    let op = op as &dyn Any;
    match op.downcast_ref().map(|coded: &Coded| coded.of) {
        Some(Producer::Dropout(dropout)) => Some(dropout),
        _ => op.downcast_ref().copied(),
    }
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

    /// What a case is of, but for its tensors.
    struct Spec<'a> {
        of: Producer,
        quantizers: &'a [(Quantize, usize)],
        /// Whether the states are one tensor.
        joined: bool,
        /// What is added for the last of the quantizers, and how many these are.
        sum: Option<(&'a Host, usize)>,
        keep: bool,
    }

    impl Spec<'_> {
        /// A case under states that suit a margin, which is that of f32 or f16.
        fn case(&self, inputs: &[Host], addend: Option<Host>, margin: f32, tolerance: Tolerance) -> Case {
            let refs: Vec<&Host> = inputs.iter().collect();
            let types = self.of.op().outputs(&inputs.iter().map(Host::ty).collect::<Vec<_>>());
            let y = self.of.op().reference(&refs, &types).remove(0);
            let sum = addend.as_ref().map(|addend| Binary::ADD.reference(&[&y, addend], &types).remove(0));
            let of_sum = self.sum.map_or(0, |(_, count)| count);
            let plain = self.quantizers.len() - of_sum;
            let source = |i: usize| sum.as_ref().filter(|_| i >= plain).unwrap_or(&y);
            let mut states: Vec<Host> =
                self.quantizers.iter().enumerate().map(|(i, &(q, groups))| clear_state(source(i), q, groups, margin)).collect();
            if self.joined {
                let rows: Vec<f32> = states.iter().flat_map(|state| state.to_f32().to_vec()).collect();
                states = vec![Host::f32([rows.len() / 4, 4], rows)];
            }
            let quantizers = self.quantizers.iter().map(|q| q.0).collect();
            let inputs = inputs.iter().cloned().chain(addend).chain(states).collect();
            Case::new(Coded { of: self.of, quantizers, of_sum, keep: self.keep }, inputs, tolerance)
        }

        /// The case in f32, and in f16.
        fn both(&self, inputs: &[Host], error: f32) -> [Case; 2] {
            let addend = self.sum.map(|(addend, _)| addend.clone());
            let full = self.case(inputs, addend.clone(), 2e-4, Tolerance::of(error));
            let halves = full.in_f16(Tolerance::of(4e-3)).inputs;
            // Step sizes stay in f32, and the norm's parameters may.
            let addend = addend.map(|addend| addend.cast(DType::F16));
            [full, self.case(&halves[..inputs.len()], addend, 2e-3, Tolerance::of(4e-3))]
        }
    }

    /// Some quantizers of the same levels.
    fn quantizers(i: usize, count: usize) -> Vec<(Quantize, usize)> {
        vec![(Quantize { bits: 2 + (i % 4) as u32, signed: i.is_multiple_of(2), inner: 1 }, 1); count]
    }

    /// Cases of the op table.
    pub fn cases() -> Vec<Case> {
        let mut cases = Vec::new();
        let shapes: [(&[usize], usize); 6] =
            [(&[1, 4], 4), (&[7, 12], 12), (&[2, 3, 8], 24), (&[3, 20], 60), (&[5, 2, 4], 4), (&[3, 28], 28)];
        for (i, (shape, repeated)) in shapes.into_iter().enumerate() {
            let (a, b) = (noise(shape, i as u64), noise([repeated], 50 + i as u64));
            let b = if repeated == a.shape().len() { b.reshape(shape) } else { b };
            let function = [Function::Add, Function::Mul, Function::Sub][i % 3];
            let b = if b.shape().rank() == 1 && repeated != a.shape().last() { b.reshape([shape[1], shape[2]]) } else { b };
            let of = Producer::Binary(Binary { function });
            let spec = Spec { of, quantizers: &quantizers(i, 1 + i % 2), joined: i == 3, sum: None, keep: i % 3 != 1 };
            cases.extend(spec.both(&[a, b], 1e-6));
        }
        for (i, (image, count)) in [([1, 3, 5, 4], 2), ([2, 8, 7, 12], 1), ([1, 4, 4, 64], 3), ([1, 6, 5, 8], 2)].into_iter().enumerate() {
            let of = Producer::MaxPool(MaxPool { kernel: 3, stride: 2, padding: 1 });
            let spec = Spec { of, quantizers: &quantizers(i, count), joined: i == 2, sum: None, keep: i % 2 == 1 };
            cases.extend(spec.both(&[noise(image, i as u64)], 1e-6));
        }
        cases.extend(dropout_cases());
        cases.extend(norm_cases());
        cases.extend(softmax_cases());
        cases
    }

    /// Tokens and maps, of one step size and of one for each head.
    fn dropout_cases() -> Vec<Case> {
        let shapes: [(&[usize], usize, usize); 5] =
            [(&[4], 1, 4), (&[3, 7, 24], 1, 1), (&[2, 3, 4, 7], 3, 28), (&[1, 5, 24], 2, 12), (&[2, 2, 2, 34], 2, 68)];
        let case = |(i, (shape, groups, inner)): (usize, (&[usize], usize, usize))| {
            let of = Producer::Dropout(Dropout { p: 0.3, salt: 5 + i as u32 });
            let quantizers = [(Quantize { bits: 2 + (i % 4) as u32, signed: i.is_multiple_of(2), inner }, groups)];
            let spec = Spec { of, quantizers: &quantizers, joined: false, sum: None, keep: i % 3 != 1 };
            spec.both(&[noise(shape, i as u64), Host::u32([1], vec![77])], 1e-6)
        };
        shapes.into_iter().enumerate().flat_map(case).collect()
    }

    /// Alone, and with a sum behind them of an operand that repeats or does not.
    fn norm_cases() -> Vec<Case> {
        let mut cases = Vec::new();
        for (i, shape) in [[1, 4], [6, 12], [3, 36], [9, 16], [1, 132], [4, 20]].into_iter().enumerate() {
            let inputs = [noise(shape, i as u64), noise([shape[1]], 50 + i as u64), noise([shape[1]], 90 + i as u64)];
            let of = Producer::LayerNorm(LayerNorm { eps: 1e-5, unbiased: i == 3 });
            let spec = Spec { of, quantizers: &quantizers(i, 1 + i % 2), joined: i == 3, sum: None, keep: i % 3 != 1 };
            cases.extend(spec.both(&inputs, 3e-5));
            let addend = if i % 2 == 0 { noise(shape, 30 + i as u64) } else { noise([shape[1]], 30 + i as u64) };
            let (count, of_sum) = [(1, 1), (3, 2), (2, 2), (12, 6), (3, 1), (2, 1)][i];
            let sum = Some((&addend, of_sum));
            let spec = Spec { of, quantizers: &quantizers(i + 1, count), joined: true, sum, keep: i % 2 == 1 };
            cases.extend(spec.both(&inputs, 3e-5));
        }
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
            let quantizers = [(quantizer, groups)];
            let spec = |of, keep| Spec { of: Producer::Softmax(of), quantizers: &quantizers, joined: false, sum: None, keep };
            cases.extend(spec(Softmax::default(), i % 3 != 1).both(&inputs, 1e-5));
            let keys = shape[3].saturating_sub(1 + i % 3);
            if shape[3].is_multiple_of(4) && keys > 0 {
                let padded = Softmax { keys: Some(keys) };
                inputs.truncate(1);
                inputs.extend((i % 2 == 1).then(|| test_mask(shape[0], keys, i as u64, false)));
                cases.extend(spec(padded, false).both(&inputs, 1e-5));
            }
        }
        cases
    }
}
