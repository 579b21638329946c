//! What all integer products share: their inputs, and what happens to the integer sums.

use crate::gpu::Dispatch;
use crate::graph::ids;
use crate::kernels::epilogue::Epilogue;
use crate::tensor::{DType, Host, Shape, TensorType};
use crate::wgsl;

/// Bits of the codes of both operands, 2 to 8 each: they say how large sums can become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits {
    /// Of x.
    pub x: u32,
    /// Of w.
    pub w: u32,
}

impl Bits {
    /// Products whose sum is at most 2^24 whatever the codes are: from 1,024 at 8 × 8 bits to 2^22 at 2 × 2.
    pub fn exact_terms(self) -> usize {
        1 << (26 - self.x - self.w)
    }
}

/// The bits of the operands, what happens to each sum, and the element type of the result.
///
/// Inputs of an op with this arithmetic: x i8, w i8 (output channels first), the state f32 `[1, 4]` of x, which gives the code of
/// padding, the state f32 `[N, 4]` of w, which only gradients read, then those of the epilogue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arithmetic {
    /// Of x and w.
    pub bits: Bits,
    /// `activation(scale[n] · S + shift[n] + residual)`
    pub epilogue: Epilogue,
    /// Element type of the result: f32 or f16.
    pub to: DType,
}

impl Arithmetic {
    /// Index of x's state among the inputs.
    pub(super) const X_STATE: usize = 2;
    /// Index of w's state among the inputs.
    pub(super) const W_STATE: usize = 3;
    /// Index of the first input of the epilogue.
    pub(super) const FIRST: usize = 4;

    /// The types of the outputs of a product of shape `y` with sums of `terms` products.
    ///
    /// # Panics
    /// When the inputs do not fit, or a sum could leave 31 bits.
    #[track_caller]
    pub(super) fn outputs(self, op: &str, inputs: &[TensorType], y: Shape, terms: usize) -> Vec<TensorType> {
        let Bits { x, w } = self.bits;
        assert!((2..=8).contains(&x) && (2..=8).contains(&w), "{op}: codes have 2 to 8 bits, found {:?}", self.bits);
        assert!(terms <= 127 * self.bits.exact_terms(), "{op}: sums of {terms} products of {:?} leave 31 bits", self.bits);
        let states = [TensorType::f32([1, 4]), TensorType::f32([y.last(), 4])];
        let fits = inputs[Self::X_STATE..Self::FIRST] == states && self.to.is_float();
        assert!(fits, "{op}: wants floats to come, and states {states:?} behind x and w, found {}", ids(inputs));
        let y = TensorType { shape: y, dtype: self.to };
        self.epilogue.check(op, Self::FIRST, inputs, y);
        vec![y]
    }

    /// The twin: the outputs from the integer sums.
    pub(super) fn reference(self, inputs: &[&Host], sums: &[i32], outputs: &[TensorType]) -> Vec<Host> {
        let mut y: Vec<f32> = sums.iter().map(|&s| s as f32).collect();
        self.epilogue.reference(Self::FIRST, inputs, &mut y, outputs[0].shape.last());
        vec![Host::from_f32(outputs[0], y)]
    }

    /// Adds what a kernel needs behind its sums: `store_y` and its bindings. `terms` is the length of the sums, `n` the number of
    /// output channels, `x_state` whether the kernel binds the state of x, at `AT_STATE`.
    pub(super) fn finish(self, dispatch: Dispatch, n: usize, terms: usize, x_state: bool) -> Dispatch {
        let four = n.is_multiple_of(4);
        let [scale, shift, residual] = self.epilogue.indices(Self::FIRST);
        // What is absent is bound to something and never read.
        let mut inputs = vec![0, 1, scale.unwrap_or(Self::X_STATE), shift.unwrap_or(Self::X_STATE)];
        let mut dispatch = self.epilogue.constants(dispatch.element("element_y", self.to));
        dispatch = dispatch.flag("IN_PARTS", terms > self.bits.exact_terms());
        if x_state {
            inputs.push(Self::X_STATE);
            dispatch = dispatch.constant("AT_STATE", inputs.len());
        }
        if residual.is_some() || !four {
            inputs.push(residual.unwrap_or(Self::X_STATE));
            dispatch = dispatch.constant("AT_RESIDUAL", inputs.len());
        }
        dispatch = dispatch.constant("AT_Y", inputs.len() + 1);
        dispatch = if four {
            let residual = if residual.is_some() { wgsl!("integer/residual.wgsl") } else { wgsl!("integer/no_residual.wgsl") };
            dispatch.part(residual).part(wgsl!("integer/store_floats.wgsl")).part(wgsl!("integer/finish.wgsl"))
        } else {
            dispatch.part(wgsl!("integer/finish_scalar.wgsl"))
        };
        dispatch.bind(inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_sums_reach_the_last_exact_integer_and_no_further() {
        for (x, w) in (2..=8).flat_map(|x| (2..=8).map(move |w| (x, w))) {
            let largest = 1usize << (x - 1 + w - 1);
            assert_eq!(Bits { x, w }.exact_terms() * largest, 1 << 24);
        }
    }
}
