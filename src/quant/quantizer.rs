//! What a quantizer is, before it has step sizes: bits, sign, granularity, zero point, and how its step sizes start.

use super::Observer;
use crate::kernels::quantize::Levels;
use crate::tensor::Shape;
use crate::{Error, Result};

/// Which elements of a tensor share a step size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// All.
    Tensor,
    /// Those of the same first index: weights, by output channel.
    Rows,
    /// Those of the same head, of tokens `[B, L, C]` with so many heads.
    Heads(usize),
    /// Those of the same head, of maps `[B, h, N, S]`.
    Maps,
    /// Those of the same last index: activations by input channel, for fake quantization alone.
    Channels,
}

impl Granularity {
    /// How many step sizes a tensor has, and how many neighbouring elements share one: `G` and `inner` of
    /// [`crate::kernels::quantize`].
    ///
    /// # Panics
    /// When a tensor of this shape has no such heads or maps.
    #[track_caller]
    pub fn of(self, shape: Shape) -> (usize, usize) {
        let dims = shape.dims();
        match self {
            Self::Tensor => (1, shape.len()),
            Self::Rows => (dims[0], shape.len() / dims[0]),
            Self::Heads(heads) => {
                let fits = heads > 0 && shape.last().is_multiple_of(heads);
                assert!(fits, "{heads} heads do not divide the last dimension of {shape}");
                (heads, shape.last() / heads)
            }
            Self::Maps => {
                let [_, heads, rows, columns] = shape.bhwc();
                (heads, rows * columns)
            }
            Self::Channels => (shape.last(), 1),
        }
    }
}

/// Whether a quantizer's levels are half of them negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Always.
    Signed,
    /// Never: what is negative is clipped.
    Unsigned,
    /// Decided once, by the data that its step sizes start from: signed when any is below −1e-5.
    FromData,
}

/// How step sizes start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// `2 · mean |x| / √high` of the whole tensor for each step size, zero points 0: LSQ's rule, as released for Q-DETR.
    Lsq,
    /// The range from the least to the largest element.
    MinMax,
    /// The range that leaves out, at each end, all beyond this percentile: from above 50 to 100.
    Percentile(f64),
    /// The range under which the squares of the errors sum up to the least, of a grid of ranges.
    Mse,
}

/// A quantizer without its step sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantizer {
    /// Bits of a code: 2 to 8.
    pub bits: u32,
    /// Whether levels are negative.
    pub sign: Sign,
    /// Which elements share a step size.
    pub granularity: Granularity,
    /// Whether each step size has a zero point; otherwise all are 0.
    pub zero_point: bool,
    /// How step sizes start.
    pub method: Method,
}

impl Quantizer {
    /// Of weights: signed, symmetric, one step size an output channel.
    pub fn weights(bits: u32, method: Method) -> Self {
        Self { bits, sign: Sign::Signed, granularity: Granularity::Rows, zero_point: false, method }
    }

    /// Of the input of an integer product: one step size and zero point for the tensor, sign from data.
    pub fn activations(bits: u32, method: Method) -> Self {
        Self { bits, sign: Sign::FromData, granularity: Granularity::Tensor, zero_point: true, method }
    }

    /// Of queries, keys and values: signed, one step size and zero point a head.
    pub fn tokens(bits: u32, heads: usize, method: Method) -> Self {
        Self { bits, sign: Sign::Signed, granularity: Granularity::Heads(heads), zero_point: true, method }
    }

    /// Of an attention map: unsigned, one step size and zero point a head. LSQ's rule would clip whatever attends to few keys,
    /// since the mean of a map is 1 / S by construction: start from min-max or MSE.
    pub fn map(bits: u32, method: Method) -> Self {
        Self { bits, sign: Sign::Unsigned, granularity: Granularity::Maps, zero_point: true, method }
    }

    /// The step sizes for a tensor that is known whole, such as weights. For data in batches see [`Observer`].
    ///
    /// # Errors
    /// As [`Observer::observe`] and [`Observer::steps`].
    pub fn start(self, shape: Shape, x: &[f32]) -> Result<Steps> {
        let mut observer = Observer::new(self)?;
        observer.observe(shape, x)?;
        observer.steps()
    }

    /// Checks what a configuration may have got wrong.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(super) fn checked(self) -> Result<Self> {
        if !(2..=8).contains(&self.bits) {
            return Err(Error::Config(format!("a quantizer of {} bits; want 2 to 8", self.bits)));
        }
        match self.method {
            Method::Percentile(p) if !(p > 50.0 && p <= 100.0) => {
                Err(Error::Config(format!("a percentile of {p}; want above 50 and at most 100, such as 99.99")))
            }
            _ => Ok(self),
        }
    }
}

/// Where the step sizes of a quantizer start.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// The levels, their sign now decided.
    pub levels: Levels,
    /// A step size for each group.
    pub alpha: Vec<f32>,
    /// Its zero point, a whole number; `None` for a quantizer without.
    pub zp: Option<Vec<f32>>,
}
