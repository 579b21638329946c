//! What turns integer sums into floats: a scale and a shift for each output channel.
//!
//! `(x_state [1, 4], w_state [N, 4], w i8 [N, ..], bias [N]?) -> (scale [N], shift [N])`, all but the codes f32:
//! `scale = alpha_x · alpha_w` and `shift = bias − (scale · z0) · Σ w`, every product rounded. One row of codes is read once.
//!
//! The gradient of the shift is that of the bias. None passes to the states: what the products owe to step sizes and zero points
//! is in the gradients of the values that the codes stand for, from which the quantizers take it.

use super::{Arithmetic, test_codes, test_state};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;
use std::sync::Arc;

const GROUP: usize = 256;
/// Codes of a row whose sum is exact in f32.
const MOST_CODES: usize = 1 << 17;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct IntegerScale;

impl Op for IntegerScale {
    fn name(&self) -> &'static str {
        "integer_scale"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        assert!((3..=4).contains(&inputs.len()), "integer_scale: wants two states, w and maybe a bias, found {}", ids(inputs));
        let (n, w) = (inputs[2].shape.dims()[0], inputs[2]);
        let fits = inputs[0] == TensorType::f32([1, 4]) && inputs[1] == TensorType::f32([n, 4]) && w.dtype == DType::I8;
        let fits = fits && inputs.get(3).is_none_or(|&bias| bias == TensorType::f32([n])) && w.shape.len() / n <= MOST_CODES;
        assert!(fits, "integer_scale: wants f32[1, 4], f32[N, 4], i8[N, ..] and maybe f32[N], found {}", ids(inputs));
        vec![TensorType::f32([n]); 2]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (x, w, n) = (inputs[0].to_f32(), inputs[1].to_f32(), outputs[0].shape.len());
        let bias = inputs.get(3).map(|b| b.to_f32());
        let scale: Vec<f32> = (0..n).map(|i| x[0] * w[4 * i]).collect();
        let rows = inputs[2].as_i8().chunks(inputs[2].shape().len() / n);
        let sums = rows.map(|row| row.iter().map(|&code| i32::from(code)).sum::<i32>() as f32);
        let shift = sums.enumerate().map(|(i, sum)| bias.as_ref().map_or(0.0, |b| b[i]) - scale[i] * x[3] * sum).collect();
        vec![Host::from_f32(outputs[0], scale), Host::from_f32(outputs[1], shift)]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let n = outputs[0].shape.len();
        let k = inputs[2].shape.len() / n;
        let lanes = k.div_ceil(4).next_power_of_two().min(64);
        let kernel = Dispatch::new(wgsl!("integer/scale.wgsl"), 4)
            .constant("GROUP", GROUP)
            .constant("LANES", lanes)
            .flag("HAS_BIAS", inputs.len() > 3)
            .bind([0, 1, 2, inputs.len() - 1])
            .params(Words::of([n, k]))
            .over_groups(n.div_ceil(GROUP / lanes));
        vec![kernel]
    }

    fn gradient(&self, _graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], _wanted: &[bool]) -> Vec<Option<Var>> {
        let mut gradients = vec![None; io.inputs.len()];
        if let Some(d_bias) = gradients.get_mut(3) {
            *d_bias = d_outputs[1];
        }
        gradients
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        inputs[2].shape.len() as u64
    }
}

/// A batch norm `· s + b` behind a scale and a shift, as one scale and one shift: `(scale · s, shift · s + b)`, every product rounded.
/// Four inputs and two outputs, all f32 `[N]`. It appears when graphs are fused, after their backward.
#[derive(Clone, Copy, Debug)]
pub struct IntegerNorm;

impl Op for IntegerNorm {
    fn name(&self) -> &'static str {
        "integer_norm"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let fits = inputs.len() == 4 && inputs[0] == TensorType::f32([inputs[0].shape.len()]) && inputs.iter().all(|&t| t == inputs[0]);
        assert!(fits, "integer_norm: wants scale, shift, s and b, all f32[N], found {}", ids(inputs));
        vec![inputs[0]; 2]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let [scale, shift, s, b] = [0, 1, 2, 3].map(|i| inputs[i].to_f32());
        let new_scale = scale.iter().zip(s.iter()).map(|(scale, s)| scale * s).collect();
        let new_shift = (0..b.len()).map(|i| shift[i] * s[i] + b[i]).collect();
        vec![Host::from_f32(outputs[0], new_scale), Host::from_f32(outputs[1], new_shift)]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let n = inputs[0].shape.len();
        let kernel = Dispatch::new(wgsl!("integer/norm.wgsl"), 4).constant("GROUP", GROUP).params(Words::of([n])).over_items(n, GROUP);
        vec![kernel]
    }
}

/// Scale and shift of a product of codes under two states.
pub(super) fn integer_scale(g: &mut Graph, x_state: Var, w_state: Var, w: Var, bias: Option<Var>) -> [Var; 2] {
    let inputs: Vec<Var> = [x_state, w_state, w].into_iter().chain(bias).collect();
    let outputs = g.apply_all(Arc::new(IntegerScale), &inputs);
    [outputs[0], outputs[1]]
}

/// Cases of the op table: shape of w, bits.
pub(super) fn cases() -> Vec<Case> {
    let shapes: [(&[usize], u32); 7] =
        [(&[1, 1], 8), (&[5, 3], 4), (&[7, 5, 3, 2], 8), (&[36, 256], 4), (&[3, 4609], 8), (&[260, 3, 3, 1], 2), (&[2, 64, 3, 24], 8)];
    let mut cases = Vec::new();
    for (i, (shape, bits)) in shapes.into_iter().enumerate() {
        let (n, seed) = (shape[0], i as u64);
        // Numbers of which no product is exact.
        let states = [test_state(1, 0.0731, -7.0, seed), test_state(n, 0.0319, 0.0, seed + 20)];
        let mut inputs = vec![states[0].clone(), states[1].clone(), test_codes(shape, bits, seed)];
        cases.push(Case::new(IntegerScale, inputs.clone(), Tolerance::EXACT));
        inputs.push(noise([n], seed + 30));
        cases.push(Case::new(IntegerScale, inputs, Tolerance::EXACT));
        let inputs = (0..4).map(|j| noise([n], seed + 40 + j)).collect();
        cases.push(Case::new(IntegerNorm, inputs, Tolerance::EXACT));
    }
    let lowest = Host::i8([2, 70_000], vec![-128; 140_000]);
    cases.push(Case::new(IntegerScale, vec![test_state(1, 0.07, 127.0, 1), test_state(2, 0.03, 0.0, 2), lowest], Tolerance::EXACT));
    cases
}

/// What products share of their gradients: those of the inputs behind the operands, of which only the shift has one.
pub(super) fn shift_gradients(g: &mut Graph, arithmetic: Arithmetic, d_y: Var, wanted: &[bool]) -> Vec<Option<Var>> {
    let [_, shift, _] = arithmetic.epilogue.indices(Arithmetic::FIRST);
    let of = |i: usize| (Some(i) == shift && wanted[i]).then(|| crate::kernels::reduce::column_sums(g, d_y, DType::F32));
    (Arithmetic::X_STATE..wanted.len()).map(of).collect()
}
