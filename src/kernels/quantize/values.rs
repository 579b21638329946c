//! What codes stand for: codes i8 `[..]` and the state f32 `[G, 4]` of their quantizer to floats `[..]`, `alpha · (code − z0)`.
//!
//! With a quantizer before it this is fake quantization: what no integer kernel computes is computed on these values. The
//! gradient goes to the codes as it is, by the convention of the family, and from there to the step size.

use super::codes::{Granular, test_shapes, test_state};
use super::{Levels, Quantize, QuantizerState};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, Shape, TensorType};
use crate::wgsl;

/// Invocations of a workgroup; each takes four words.
const GROUP: usize = 64;

/// `(codes, state) -> values`; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Dequantize {
    /// Neighbouring elements that share a step size.
    pub inner: usize,
    /// Element type of the values.
    pub to: DType,
}

impl Dequantize {
    fn run(self, codes: TensorType, groups: usize) -> usize {
        if groups == 1 { codes.shape.len() } else { self.inner }
    }

    fn kernel(self, codes: TensorType, groups: usize, four: bool) -> Dispatch {
        let n = codes.shape.len();
        Dispatch::new(wgsl!("quantize/values.wgsl"), 2)
            .element("element_y", self.to)
            .constant("GROUP", GROUP)
            .part(if four { wgsl!("quantize/write_vec4.wgsl") } else { wgsl!("quantize/write_scalar.wgsl") })
            .params(Words::of([n, n.div_ceil(4), self.run(codes, groups), groups]))
            .over_items(n.div_ceil(4), 4 * GROUP)
    }
}

impl Op for Dequantize {
    fn name(&self) -> &'static str {
        "dequantize"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [codes, state] = inputs else { panic!("dequantize: wants codes and a state, found {}", ids(inputs)) };
        let fits = codes.dtype == DType::I8 && self.to.is_float() && divides(self.inner, codes.shape, *state);
        assert!(fits, "dequantize: {self:?} wants codes i8 and their state f32[G, 4], found {}", ids(inputs));
        vec![codes.with_dtype(self.to)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (codes, state) = (inputs[0].as_i8(), inputs[1].to_f32());
        let (groups, run) = (state.len() / 4, self.run(outputs[0], state.len() / 4));
        let value = |(i, &code): (usize, &i8)| {
            let state = &state[i / run % groups * 4..][..4];
            state[0] * (f32::from(code) - state[3])
        };
        vec![Host::from_f32(outputs[0], codes.iter().enumerate().map(value).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let groups = inputs[1].shape.rows();
        let four = inputs[0].shape.len().is_multiple_of(4) && self.run(inputs[0], groups).is_multiple_of(4);
        four.then_some(true).into_iter().chain([false]).map(|four| self.kernel(inputs[0], groups, four)).collect()
    }

    fn gradient(&self, _graph: &mut Graph, _io: &Io, d_outputs: &[Option<Var>], _wanted: &[bool]) -> Vec<Option<Var>> {
        vec![d_outputs[0], None]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        2 * inputs[0].shape.len() as u64
    }
}

/// Whether x can be divided into runs of `inner` elements for the step sizes of a state `f32[G, 4]`.
pub(super) fn divides(inner: usize, x: Shape, state: TensorType) -> bool {
    let groups = state.shape.rows();
    let divided = groups == 1 || inner > 0 && x.len().is_multiple_of(inner * groups);
    state == TensorType::f32([groups, 4]) && divided
}

/// Codes of any value that the levels have.
pub(super) fn test_codes(shape: &[usize], levels: Levels, seed: u64) -> Host {
    let reach = (1 << (levels.bits - 1)) as f32;
    Host::i8(shape, noise(shape, seed).to_f32().iter().map(|v| (v * reach).floor() as i8).collect())
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, Granular { shape, groups, inner }) in test_shapes().into_iter().enumerate() {
        let (bits, signed) = (2 + (i % 7) as u32, i % 2 == 0);
        let state = test_state(QuantizerState { bits, signed }, groups, i as u64, i % 3 != 0);
        let codes = test_codes(&shape, Quantize { bits, signed, inner }.levels(), i as u64);
        for (to, tolerance) in [(DType::F32, Tolerance::EXACT), (DType::F16, Tolerance::of(1e-3))] {
            cases.push(Case::new(Dequantize { inner, to }, vec![codes.clone(), state.clone()], tolerance));
        }
    }
    cases
}
