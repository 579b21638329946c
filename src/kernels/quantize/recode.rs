//! Codes of what other codes stand for: codes i8 `[..]` and the state f32 `[1, 4]` of their quantizer, and the state f32 `[1, 4]` of another
//! one, to the codes i8 of that.
//!
//! It is what [`Dequantize`] and [`Quantize`] compute one after the other, bit by bit, without the floats between. What reads codes of an
//! image `[B, H, W, C]` in steps, as a downsampling convolution does, gets those pixels alone: `[B, ⌈H / step⌉, ⌈W / step⌉, C]`. It appears
//! when graphs are fused.

use super::codes::test_state;
use super::values::{divides, test_codes};
use super::{Dequantize, Levels, Quantize, QuantizerState};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::Case;
use crate::graph::{Op, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, Shape, TensorType};
use crate::wgsl;

/// Invocations of a workgroup; each takes four words.
const GROUP: usize = 64;

/// `(codes, state, other state) -> codes`; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Recode {
    /// What the values of the codes are rounded to.
    pub through: DType,
    /// The levels of the result.
    pub levels: Levels,
    /// Pixels from one that is taken to the next, in both directions; 1 for all of a tensor of any shape.
    pub step: usize,
}

impl Recode {
    /// The shape of the result.
    fn shape(self, of: Shape) -> Shape {
        if self.step == 1 {
            return of;
        }
        let [batch, height, width, channels] = of.bhwc();
        Shape::new([batch, height.div_ceil(self.step), width.div_ceil(self.step), channels])
    }

    /// The codes that are read.
    fn taken(self, codes: &Host) -> Host {
        if self.step == 1 {
            return codes.clone();
        }
        let shape = self.shape(codes.shape());
        let ([_, from_height, from_width, channels], [batch, height, width, _]) = (codes.shape().bhwc(), shape.bhwc());
        let pixel = |i: usize| {
            let (image, row, column) = (i / (height * width), i / width % height, i % width);
            let from = (image * from_height + row * self.step) * from_width + column * self.step;
            &codes.as_i8()[from * channels..][..channels]
        };
        Host::i8(shape.dims(), (0..batch * height * width).flat_map(pixel).copied().collect())
    }

    /// Whether there is a kernel for codes of a shape: it reads and writes words.
    pub(crate) fn suits(self, of: Shape) -> bool {
        if self.step == 1 { of.len().is_multiple_of(4) } else { of.dims().len() == 4 && of.last().is_multiple_of(4) }
    }
}

impl Op for Recode {
    fn name(&self) -> &'static str {
        "recode"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [codes, from, to] = inputs else { panic!("recode: wants codes and two states, found {}", ids(inputs)) };
        let states = [from, to].iter().all(|state| divides(1, codes.shape, **state) && state.shape.rows() == 1);
        let fits = codes.dtype == DType::I8 && self.through.is_float() && states && self.suits(codes.shape);
        assert!(fits, "recode: {self:?} wants words of codes i8 and two states f32[1, 4], found {}", ids(inputs));
        vec![TensorType { shape: self.shape(codes.shape), ..*codes }]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let taken = self.taken(inputs[0]);
        let values = Dequantize { inner: 1, to: self.through };
        let floats = values.reference(&[&taken, inputs[1]], &[taken.ty().with_dtype(self.through)]);
        let Levels { bits, signed } = self.levels;
        Quantize { bits, signed, inner: 1 }.reference(&[&floats[0], inputs[2]], outputs)
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let words = outputs[0].shape.len() / 4;
        let sizes = if self.step == 1 {
            [words, 1, 1, 1, 1, 1]
        } else {
            let ([_, from_height, from_width, channels], [_, height, width, _]) = (inputs[0].shape.bhwc(), outputs[0].shape.bhwc());
            [words, channels / 4, width, height, from_width, from_height]
        };
        let limits = [self.levels.low(), self.levels.high(), self.levels.offset()].map(|limit| limit as f32);
        let kernel = Dispatch::new(wgsl!("quantize/recode.wgsl"), 3)
            .constant("GROUP", GROUP)
            .constant("STEP", self.step)
            .flag("HALF", self.through == DType::F16)
            .params(limits.into_iter().fold(Words::of(sizes), Words::float))
            .over_items(words, 4 * GROUP);
        vec![kernel]
    }

    fn operations(&self, _inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        7 * outputs[0].shape.len() as u64
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |(i, (shape, step)): (usize, (&[usize], usize))| {
        let (from, levels) = (Levels::new(8, i % 2 == 0), Levels::new(2 + (5 * i % 7) as u32, i % 3 == 0));
        let state = |levels: Levels, seed| test_state(QuantizerState { bits: levels.bits, signed: levels.signed }, 1, seed, i % 4 != 3);
        let mut wide = state(levels, i as u64 + 40);
        // A step for as many levels as the codes reach over, and ties: a power of two for both.
        let alpha = 0.125 * (1 << (8 - levels.bits)) as f32;
        let zero = wide.to_f32()[2..].to_vec();
        wide = Host::f32([1, 4], [alpha, 1.0 / alpha].into_iter().chain(zero).collect());
        let through = [DType::F32, DType::F16][i / 2 % 2];
        let codes = test_codes(shape, from, i as u64);
        Case::new(Recode { through, levels, step }, vec![codes, state(from, i as u64), wide], Tolerance::EXACT)
    };
    let shapes: [(&[usize], usize); 9] = [
        (&[4], 1),
        (&[2, 3, 10], 1),
        (&[5, 257, 4], 1),
        (&[1, 1, 1, 4], 2),
        (&[2, 5, 7, 12], 2),
        (&[1, 6, 8, 64], 2),
        (&[2, 7, 5, 8], 3),
        (&[1, 2, 2, 256], 2),
        (&[3, 40, 16], 1),
    ];
    shapes.into_iter().enumerate().map(case).collect()
}
