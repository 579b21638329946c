//! Quantizers: floats to the codes of 2 to 8 bits that all integer kernels read, and the straight-through gradients of that.
//!
//! With a step size `alpha > 0`, an integer zero point `Z` and the levels `low ..= high` of the bits:
//!
//! ```text
//! u = x · (1 / alpha) + Z        q = round(clamp(u, low, high))        value = alpha · (q − Z)
//! ```
//!
//! rounding half to even. What is stored is `q − offset`, which fits an i8 (see [`Levels`]); consumers know of it only the stored
//! zero `z0 = Z − offset`: `value = alpha · (code − z0)`.
//!
//! **A code is the same on every device**, in training and after it: `1 / alpha` is correctly rounded, the product is rounded
//! before the sum, and nothing else can differ. Beyond f32's range (`|x| / alpha ≥ 2^128`) and for NaN nothing is promised.
//!
//! **Granularity.** Element i of x belongs to step size `i / inner % G` of the G that there are. One for the tensor: G = 1, any
//! `inner`. Weights `[O, K..]`, one a row: `inner = K..`. Tokens `[B, L, C]`, one a head: `inner = C / heads`. Maps `[B, h, N, S]`, one
//! a head: `inner = N · S`. One a channel of the last dimension: `inner = 1`; no integer product exists for activations of that kind.
//!
//! **Gradients** pass straight through the rounding. The gradient of a tensor of codes is, by convention, that of the values
//! they stand for, a tensor of floats of the same shape. With `inside` for `low ≤ u ≤ high` and d that gradient:
//!
//! ```text
//! d_x = inside ? d : 0     d_alpha = g · Σ d · (inside ? q − u : q − Z)     d_zp = g · Σ d · (inside ? 0 : −alpha)
//! ```
//!
//! `g = 1 / √(n · high)` as in LSQ, where n counts all elements of x: all step sizes', and the batch's. The limits of alpha and
//! the rounding and clamping of the zero point are passed straight through too, so that a step size that fell below its limit
//! can rise again.

mod arena;
mod arena_backward;
mod backward;
mod codes;
mod recode;
mod state;
mod states;
mod values;

pub use arena::{ArenaCodes, CodeBlock};
pub use arena_backward::{ArenaBackward, WeightRow};
pub use backward::QuantizeBackward;
pub use codes::Quantize;
pub use recode::Recode;
pub use state::{QuantizerState, QuantizerStateBackward};
pub use states::{GradientRow, QuantizerStates, StateGradients, StateRow};
pub use values::Dequantize;

use crate::graph::check::Case;
use crate::graph::{Graph, Var};
use crate::tensor::DType;

const GROUP: usize = 256;

/// The least step size: one that an optimizer pushed to zero or below counts as this.
pub const ALPHA_MIN: f32 = 1e-8;
/// The largest step size: its reciprocal is still a normal number.
pub const ALPHA_MAX: f32 = 1e30;

/// The integers that some bits can be: `−2^(b−1) ..= 2^(b−1) − 1` signed, `0 ..= 2^b − 1` unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Levels {
    /// 2 to 8.
    pub bits: u32,
    /// Whether half of them are negative.
    pub signed: bool,
}

impl Levels {
    /// The levels of some bits.
    ///
    /// # Panics
    /// When the bits leave 2 to 8.
    #[track_caller]
    pub fn new(bits: u32, signed: bool) -> Self {
        assert!((2..=8).contains(&bits), "a quantizer of {bits} bits: want 2 to 8");
        Self { bits, signed }
    }

    /// The least level, "Qn".
    pub fn low(self) -> i32 {
        if self.signed { -(1 << (self.bits - 1)) } else { 0 }
    }

    /// The largest level, "Qp".
    pub fn high(self) -> i32 {
        self.low() + (1 << self.bits) - 1
    }

    /// What a stored code is less than its level: 0, or for unsigned levels half of their number, so that each fits an i8.
    pub fn offset(self) -> i32 {
        if self.signed { 0 } else { 1 << (self.bits - 1) }
    }

    /// As a word of a table: the bits, and 256 if signed.
    fn word(self) -> u32 {
        self.bits | if self.signed { 256 } else { 0 }
    }

    /// What [`Levels::word`] was made of.
    fn of_word(word: u32) -> Self {
        Self::new(word & 255, word > 255)
    }

    /// The level of x on the scale of levels, not yet clamped and rounded: u.
    fn scaled(self, x: f32, state: &[f32]) -> f32 {
        x * state[1] + state[2]
    }

    /// The level nearest to u: q.
    fn nearest(self, u: f32) -> f32 {
        u.clamp(self.low() as f32, self.high() as f32).round_ties_even()
    }
}

/// What kernels read of each step size `alpha` f32 `[G]`, with integer zero points rounded from `zp` f32 `[G]` or of 0.
#[track_caller]
pub fn quantizer_state(g: &mut Graph, alpha: Var, zp: Option<Var>, levels: Levels) -> Var {
    let op = QuantizerState { bits: levels.bits, signed: levels.signed };
    g.apply(op, &[alpha].into_iter().chain(zp).collect::<Vec<_>>())
}

/// The codes of x under the [`quantizer_state`] of the same levels; see the module for `inner`.
#[track_caller]
pub fn quantize(g: &mut Graph, x: Var, state: Var, levels: Levels, inner: usize) -> Var {
    g.apply(Quantize { bits: levels.bits, signed: levels.signed, inner }, &[x, state])
}

/// What codes stand for under the [`quantizer_state`] they were made with, as floats `to`; see the module for `inner`.
#[track_caller]
pub fn dequantize(g: &mut Graph, codes: Var, state: Var, inner: usize, to: DType) -> Var {
    g.apply(Dequantize { inner, to }, &[codes, state])
}

/// Cases of the op table.
pub fn cases() -> Vec<Case> {
    let arenas = [states::cases(), arena::cases(), arena_backward::cases()].concat();
    [state::cases(), arenas, codes::cases(), values::cases(), recode::cases(), backward::cases()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_fits_the_stored_byte() {
        for bits in 2..=8 {
            for signed in [false, true] {
                let levels = Levels::new(bits, signed);
                assert_eq!(levels.high() - levels.low() + 1, 1 << bits);
                assert_eq!(levels.low() - levels.offset(), -(1 << (bits - 1)), "{levels:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "a quantizer of 9 bits")]
    fn nine_bits_are_refused() {
        Levels::new(9, true);
    }
}
