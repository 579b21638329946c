//! Linear layers and convolutions on the codes of quantizers: what low bits compute.
//!
//! With x codes under one step size `alpha_x` and stored zero `z0`, and w codes under one step size `alpha_w[n]` per output
//! channel and stored zero 0, the product of the dequantized values is `scale[n] · S + shift[n]`, where
//! `S[m, n] = Σ_k x_code[m, k] · w_code[n, k]` is an integer, `scale[n] = alpha_x · alpha_w[n]` and
//! `shift[n] = bias[n] − scale[n] · z0 · Σ_k w_code[n, k]`. Outside of an image stands the code z0, which means 0.
//!
//! **Exactness.** Every kernel of every tier computes S as the same integer, of less than 32 bits, rounds it to f32 once, to nearest,
//! and then does the same f32 operations in the same order, each product rounded before it is added. So results agree bit by
//! bit between the CPU twins, all kernels and all devices. Where products are added up in f32, a part of at most
//! [`Bits::exact_terms`] of them stays at or below 2^24, where f32 holds every integer; parts are added as i32.
//!
//! **Tried and left.** Results written over the skip connection that dies with them (one buffer, read and written): a sixth less scratch
//! memory in DETR-R50, but 764 µs in place of 504 for the last convolutions of `layer1`'s blocks (batch 8, H100 and H200, 2026-11-26).
//!
//! Inputs of the products, see [`Arithmetic`]: x, w, the states f32 `[1, 4]` and `[N, 4]` of their quantizers, then scale, shift
//! and residual as far as the epilogue has them. The residual is floats, or codes with their state behind them.

mod arena_scales;
mod arithmetic;
mod conv;
mod depthwise;
mod gradient;
mod linear;
mod linear_norm;
mod matrix;
mod product;
mod scale;

pub use arena_scales::{ArenaScales, ScaleRow};
pub use arithmetic::{Arithmetic, Bits, Requantize};
pub use conv::IntegerConv;
pub use depthwise::IntegerDepthwise;
pub use gradient::IntegerWeightGradient;
pub use linear::IntegerLinear;
pub use linear_norm::IntegerLinearNorm;
pub(crate) use linear_norm::matrix_case as normed_matrix_case;
pub use scale::{IntegerNorm, IntegerScale};

use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Op, Var};
use crate::kernels::conv::Window;
use crate::kernels::epilogue::{Activation, Epilogue};
use crate::kernels::linear::epilogue_inputs;
use crate::kernels::quantize::Levels;
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host};
use std::any::Any;
use std::sync::Arc;

/// A tensor of codes with the state of their quantizer.
#[derive(Clone, Copy, Debug)]
pub struct Codes {
    /// i8.
    pub codes: Var,
    /// f32: `[1, 4]` of activations, `[N, 4]` of weights, whose stored zeros are 0.
    pub state: Var,
    /// Bits of a code.
    pub bits: u32,
}

/// `x · wᵀ + bias` of what the codes stand for, in floats `to`: x `[.., K]`, w `[N, K]`, bias f32 `[N]`.
#[track_caller]
pub fn linear(g: &mut Graph, x: Codes, w: Codes, bias: Option<Var>, to: DType) -> Var {
    product(g, x, w, bias, to, |arithmetic, g, inputs| g.apply(IntegerLinear::new(arithmetic), inputs))
}

/// The convolution of what the codes stand for, with zeros around, in floats `to`: x `[B, H, W, C]`, w `[N, kh, kw, C]`, bias f32 `[N]`.
#[track_caller]
pub fn conv(g: &mut Graph, x: Codes, w: Codes, bias: Option<Var>, window: Window, to: DType) -> Var {
    product(g, x, w, bias, to, |arithmetic, g, inputs| g.apply(IntegerConv::new(window, arithmetic), inputs))
}

/// The depthwise convolution of what the codes stand for, with zeros around, in floats `to`: x `[B, H, W, C]`, w `[C, kh, kw, 1]`,
/// bias f32 `[C]`.
#[track_caller]
pub fn depthwise(g: &mut Graph, x: Codes, w: Codes, bias: Option<Var>, window: Window, to: DType) -> Var {
    product(g, x, w, bias, to, |arithmetic, g, inputs| g.apply(IntegerDepthwise { window, arithmetic }, inputs))
}

#[track_caller]
fn product(
    g: &mut Graph,
    x: Codes,
    w: Codes,
    bias: Option<Var>,
    to: DType,
    apply: impl FnOnce(Arithmetic, &mut Graph, &[Var]) -> Var,
) -> Var {
    let [scale, shift] = scale::integer_scale(g, x.state, w.state, w.codes, bias);
    let arithmetic = Arithmetic { bits: Bits { x: x.bits, w: w.bits }, epilogue: PLAIN, residual_codes: false, to, requantize: None };
    apply(arithmetic, g, &[x.codes, w.codes, x.state, w.state, scale, shift])
}

/// The arithmetic of an op that is a product of codes.
pub(crate) fn arithmetic_of(op: &dyn Op) -> Option<Arithmetic> {
    let op = op as &dyn Any;
    let linear = op.downcast_ref().map(|l: &IntegerLinear| l.arithmetic);
    let conv = || op.downcast_ref().map(|c: &IntegerConv| c.arithmetic);
    linear.or_else(conv).or_else(|| op.downcast_ref().map(|d: &IntegerDepthwise| d.arithmetic))
}

/// The same product of codes with another arithmetic; `None` where no kernel could bind all that it needs.
///
/// # Panics
/// When the op is none.
pub(crate) fn with_arithmetic(op: &dyn Op, arithmetic: Arithmetic) -> Option<Arc<dyn Op>> {
    let any = op as &dyn Any;
    let (new, x_states): (Arc<dyn Op>, usize) = if any.is::<IntegerLinear>() {
        (Arc::new(IntegerLinear::new(arithmetic)), 0)
    } else if let Some(&conv) = any.downcast_ref::<IntegerConv>() {
        (Arc::new(IntegerConv { arithmetic, ..conv }), conv.x_states())
    } else {
        let &depthwise = any.downcast_ref::<IntegerDepthwise>().unwrap_or_else(|| panic!("{} is no product of codes", op.name()));
        (Arc::new(IntegerDepthwise { arithmetic, ..depthwise }), 1)
    };
    arithmetic.is_bindable(x_states).then_some(new)
}

/// A small case that the kernels for cooperative matrices take, more than a tile in each direction.
pub(crate) fn matrix_case() -> Case {
    let arithmetic = Arithmetic { bits: Bits { x: 4, w: 4 }, epilogue: PLAIN, residual_codes: false, to: DType::F32, requantize: None };
    let (x, w) = (test_codes([65, 80], 4, 1), test_codes([68, 80], 4, 2));
    Case::new(IntegerLinear::new(arithmetic), test_inputs(arithmetic, x, w, -3.0, &[65, 68], 80), Tolerance::EXACT)
}

/// Cases of the op table.
pub fn cases() -> Vec<Case> {
    [linear::cases(), linear_norm::cases(), conv::cases(), depthwise::cases(), scale::cases(), arena_scales::cases(), gradient::cases()]
        .concat()
}

/// Codes of so many bits, all of them with the same chance.
fn test_codes(shape: impl AsRef<[usize]>, bits: u32, seed: u64) -> Host {
    let half = (1 << (bits - 1)) as f32;
    let codes = noise(&shape, seed).to_f32().iter().map(|v| (v * half).floor() as i8).collect();
    Host::i8(shape, codes)
}

/// The state of a quantizer of n step sizes about `alpha`, with one stored zero.
fn test_state(n: usize, alpha: f32, zero: f32, seed: u64) -> Host {
    let alphas = noise([n], seed);
    let row = |v: &f32| {
        let alpha = alpha * (1.0 + 0.5 * v);
        [alpha, 1.0 / alpha, zero, zero]
    };
    Host::f32([n, 4], alphas.to_f32().iter().flat_map(row).collect())
}

/// Every input that a product with such codes wants for a result of the given shape, with scales that give numbers about 1.
fn test_inputs(arithmetic: Arithmetic, x: Host, w: Host, zero: f32, y: &[usize], k: usize) -> Vec<Host> {
    let n = y[y.len() - 1];
    let mut inputs = vec![x, w, test_state(1, 0.1, zero, 6), test_state(n, 0.1, 0.0, 7)];
    inputs.extend(epilogue_inputs(arithmetic.epilogue, y));
    let Bits { x, w } = arithmetic.bits;
    let one = 4.0 / ((1 << (x + w - 2)) as f32 * (k as f32).sqrt());
    if let [Some(scale), ..] = arithmetic.epilogue.indices(Arithmetic::FIRST) {
        inputs[scale] = Host::f32([n], inputs[scale].to_f32().iter().map(|v| one * (2.0 + v)).collect());
    }
    if let [.., Some(residual)] = arithmetic.epilogue.indices(Arithmetic::FIRST) {
        inputs[residual] = if arithmetic.residual_codes { test_codes(y, 8, 5) } else { inputs[residual].clone().cast(arithmetic.to) };
    }
    // No value of such codes is exact.
    inputs.extend(arithmetic.residual_codes.then(|| test_state(1, 0.0137, -5.0, 9)));
    // A fine step, so that results lie on both sides of most codes.
    let behind = arithmetic
        .requantize
        .map(|r| test_state(r.groups * r.codes(), 6.0 / (1 << r.levels.bits) as f32, if r.keep { -1.0 } else { 0.0 }, 8));
    inputs.extend(behind);
    inputs
}

/// An epilogue with everything.
const ALL: Epilogue = Epilogue { scale: true, shift: true, residual: true, activation: Activation::Relu };
/// The epilogue of a layer before anything is fused.
const PLAIN: Epilogue = Epilogue { scale: true, shift: true, residual: false, activation: Activation::None };
/// The sums themselves.
const SUMS: Epilogue = Epilogue { scale: false, shift: false, residual: false, activation: Activation::None };

/// Every way in which results leave a product of 4 × 8 bits that binds so many states for x: as floats, codes, of one quantizer or two, or both, with a residual or
/// without, in f32 and f16. Each is a kernel of its own.
fn all_ends(x_states: usize) -> Vec<Arithmetic> {
    let ends = [DType::F32, DType::F16].into_iter().flat_map(|to| [false, true].map(|residual| (to, residual)));
    let stores =
        [None, Some((1, false, None)), Some((1, true, None)), Some((2, false, None)), Some((2, true, None)), Some((1, false, Some(3)))];
    ends.flat_map(|(to, residual)| stores.map(|codes| (to, residual, codes)))
        .map(|(to, residual, codes)| {
            let levels = Levels::new(4, residual);
            let again = |bits| Levels::new(bits, !residual);
            let requantize =
                codes.map(|(quantizers, keep, bits)| Requantize { levels, quantizers, groups: 1, keep, again: bits.map(again) });
            let epilogue = Epilogue { residual, ..if residual { ALL } else { PLAIN } };
            Arithmetic { bits: Bits { x: 4, w: 8 }, epilogue, residual_codes: false, to, requantize }
        })
        .chain(coded_ends())
        .filter(|arithmetic| arithmetic.is_bindable(x_states))
        .collect()
}

/// The same with a residual of codes, as floats, as codes, and as codes of two quantizers: a kernel has no room for floats and codes.
fn coded_ends() -> Vec<Arithmetic> {
    let requantize = Requantize { levels: Levels::new(4, true), quantizers: 1, groups: 1, keep: false, again: None };
    let twice = Requantize { again: Some(Levels::new(3, false)), ..requantize };
    let ends = [None, Some(requantize), Some(twice)];
    let ends = [DType::F32, DType::F16].into_iter().flat_map(|to| ends.map(|requantize| (to, requantize)));
    ends.map(|(to, requantize)| Arithmetic { bits: Bits { x: 4, w: 8 }, epilogue: ALL, residual_codes: true, to, requantize }).collect()
}

/// Arithmetic of `[x, w]` bits for the i-th case of a list: all epilogues, in f32 and f16, to floats.
fn test_arithmetic(i: usize, [x, w]: [u32; 2]) -> Arithmetic {
    let relu6 = Epilogue { activation: Activation::Relu6, ..PLAIN };
    let to = if i % 4 == 3 { DType::F16 } else { DType::F32 };
    Arithmetic { bits: Bits { x, w }, epilogue: [ALL, PLAIN, SUMS, ALL, relu6][i % 5], residual_codes: false, to, requantize: None }
}

/// The arithmetic of the i-th case of a list and, where a product of n channels can have and bind it, the same with a quantizer.
fn test_arithmetics(i: usize, bits: [u32; 2], n: usize, x_states: usize) -> Vec<Arithmetic> {
    let floats = test_arithmetic(i, bits);
    let groups = if i % 3 == 2 && n.is_multiple_of(4) { n / 4 } else { 1 };
    let quantizers = if groups == 1 { 1 + i % 4 / 2 } else { 1 };
    let requantize =
        Requantize { levels: Levels::new(bits[i % 2], i.is_multiple_of(3)), quantizers, groups, keep: i.is_multiple_of(2), again: None };
    let codes = Arithmetic { requantize: Some(requantize), ..floats };
    let fits = n.is_multiple_of(4) && floats.epilogue.scale && codes.is_bindable(x_states);
    [floats].into_iter().chain(fits.then_some(codes)).collect()
}
