//! What all integer products share: their inputs, and what happens to the integer sums.

use crate::gpu::Dispatch;
use crate::graph::{Op, ids};
use crate::kernels::coded::{codes_of_all, codes_type};
use crate::kernels::epilogue::Epilogue;
use crate::kernels::quantize::{Dequantize, Levels, Quantize, Recode};
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

/// The quantizers behind a product, whose work the product does too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requantize {
    /// What the codes are of.
    pub levels: Levels,
    /// How many quantizers of these levels there are: one or two.
    pub quantizers: usize,
    /// Step sizes of each: one, or of a single quantizer several for as many neighbouring channels each, a multiple of 4.
    pub groups: usize,
    /// Whether the floats are a result as well.
    pub keep: bool,
    /// The levels of one more quantizer, of what the codes of the first one, which is then the only one and has one step size, stand for.
    pub again: Option<Levels>,
}

impl Requantize {
    /// How many tensors of codes there are.
    pub(super) fn codes(self) -> usize {
        self.quantizers + usize::from(self.again.is_some())
    }
}

/// The bits of the operands, what happens to each sum, and the element type of the result.
///
/// Inputs of an op with this arithmetic: x i8, w i8 (output channels first), the state f32 `[1, 4]` of x, which gives the code of
/// padding, the state f32 `[N, 4]` of w, which only gradients read, then those of the epilogue, then of a residual of codes their state
/// f32 `[1, 4]`, then the state f32 `[G, 4]` of the quantizer behind it, G step sizes each of N / G channels, or that of G quantizers, a row
/// each. Outputs: the floats, or codes i8 of the same shape, of several quantizers `[G, elements]`, or both. Codes need N to be a multiple
/// of 4, so that an invocation reads and writes whole words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arithmetic {
    /// Of x and w.
    pub bits: Bits,
    /// `activation(scale[n] · S + shift[n] + residual)`
    pub epilogue: Epilogue,
    /// Whether the epilogue's residual is codes i8 under one step size. What is added is `alpha · (code − z0)` in floats `to`, the bits that
    /// [`Dequantize`] gives. They appear when graphs are fused.
    pub residual_codes: bool,
    /// Element type of the floats: f32 or f16. Where only codes are stored, they are made from floats rounded to it.
    pub to: DType,
    /// The quantizers of the result. They appear when graphs are fused.
    pub requantize: Option<Requantize>,
}

impl Arithmetic {
    /// Index of x's state among the inputs.
    pub(super) const X_STATE: usize = 2;
    /// Index of w's state among the inputs.
    pub(super) const W_STATE: usize = 3;
    /// Index of the first input of the epilogue.
    pub(crate) const FIRST: usize = 4;

    /// The types of the outputs of `products` products, of shape `y` together, with sums of `terms` products.
    ///
    /// # Panics
    /// When the inputs do not fit, or a sum could leave 31 bits.
    #[track_caller]
    pub(super) fn outputs(self, op: &str, inputs: &[TensorType], products: usize, y: Shape, terms: usize) -> Vec<TensorType> {
        let Bits { x, w } = self.bits;
        assert!((2..=8).contains(&x) && (2..=8).contains(&w), "{op}: codes have 2 to 8 bits, found {:?}", self.bits);
        assert!(terms <= 127 * self.bits.exact_terms(), "{op}: sums of {terms} products of {:?} leave 31 bits", self.bits);
        let states = [TensorType::f32([products, 4]), TensorType::f32([products * y.last(), 4])];
        let fits = inputs[Self::X_STATE..Self::FIRST] == states && self.to.is_float();
        assert!(fits, "{op}: wants floats to come, and states {states:?} behind x and w, found {}", ids(inputs));
        let y = TensorType { shape: y, dtype: self.to };
        let (inputs, behind) = inputs.split_at(inputs.len() - usize::from(self.requantize.is_some()));
        self.check_epilogue(op, inputs, products, y);
        let Some(requantize) = self.requantize else { return vec![y] };
        let (Requantize { keep, groups, .. }, codes) = (requantize, requantize.codes());
        let fits = y.shape.last().is_multiple_of(4 * groups) && behind == [TensorType::f32([products * groups * codes, 4])];
        assert!(
            fits && (codes == 1 || [codes, groups, products] == [2, 1, 1]),
            "{op}: to give codes it wants a multiple of 4 channels for each row of a state, found {y}, {behind:?}"
        );
        keep.then_some(y).into_iter().chain([codes_type(y, codes)]).collect()
    }

    /// Checks the inputs up to those of the epilogue, of so many products of type `y`.
    #[track_caller]
    fn check_epilogue(self, op: &str, inputs: &[TensorType], products: usize, y: TensorType) {
        let (inputs, state) = inputs.split_at(inputs.len() - usize::from(self.residual_codes));
        let is_one = self.epilogue.residual && products == 1 && y.shape.last().is_multiple_of(4);
        let fits = !self.residual_codes || is_one && *state == [TensorType::f32([1, 4])];
        assert!(fits, "{op}: to add codes it wants one product, a multiple of 4 channels and a state of one row, found {y}, {state:?}");
        // Scales and shifts of several products, which have no residuals, lie one behind the other.
        let shape = if products == 1 { y.shape } else { Shape::new([products * y.shape.last()]) };
        let residual = TensorType { shape, dtype: if self.residual_codes { DType::I8 } else { self.to } };
        self.epilogue.check(op, Self::FIRST, inputs, residual);
    }

    /// Indices of a residual of codes and of their state among the inputs.
    pub(crate) fn coded_residual(self) -> Option<[usize; 2]> {
        let [.., residual] = self.epilogue.indices(Self::FIRST);
        residual.filter(|_| self.residual_codes).map(|at| [at, at + 1])
    }

    /// Storage buffers of a kernel.
    fn buffers(self, x_states: usize) -> usize {
        let outputs = self.requantize.map_or(1, |r| 2 + usize::from(r.keep));
        4 + x_states + usize::from(self.epilogue.residual) + usize::from(self.residual_codes) + outputs
    }

    /// Whether a kernel that binds so many states for x has room for all that it binds: WebGPU guarantees 8 storage buffers.
    pub(super) fn is_bindable(self, x_states: usize) -> bool {
        self.buffers(x_states) <= 8
    }

    /// The twin: the outputs of a product of a shape from the integer sums.
    pub(super) fn reference(self, inputs: &[&Host], sums: &[i32], shape: Shape, outputs: &[TensorType]) -> Vec<Host> {
        let mut y: Vec<f32> = sums.iter().map(|&s| s as f32).collect();
        let values = self.residual_values(inputs);
        let mut in_floats = inputs.to_vec();
        if let (Some([at, _]), Some(values)) = (self.coded_residual(), &values) {
            in_floats[at] = values;
        }
        self.epilogue.reference(Self::FIRST, &in_floats, &mut y, shape.last());
        let y = Host::from_f32(TensorType { shape, dtype: self.to }, y);
        let Some(Requantize { levels: Levels { bits, signed }, quantizers, groups, keep, again }) = self.requantize else { return vec![y] };
        let quantizer = Quantize { bits, signed, inner: y.shape().last() / groups };
        let (state, ty) = (inputs[inputs.len() - 1], outputs[outputs.len() - 1]);
        let codes = if let Some(levels) = again {
            let [first, other] = [0, 1].map(|row| Host::f32([1, 4], state.to_f32()[4 * row..][..4].to_vec()));
            let of_y = [y.ty().with_dtype(DType::I8)];
            let codes = quantizer.reference(&[&y, &first], &of_y).remove(0);
            let others = Recode { through: self.to, levels, step: 1 }.reference(&[&codes, &first, &other], &of_y).remove(0);
            vec![Host::i8(ty.shape.dims(), [codes.as_i8(), others.as_i8()].concat())]
        } else if quantizers == 1 {
            quantizer.reference(&[&y, state], &[ty])
        } else {
            vec![codes_of_all((0..quantizers).map(|_| (quantizer, &y)), &state.to_f32(), ty)]
        };
        keep.then_some(y).into_iter().chain(codes).collect()
    }

    /// What a residual of codes stands for.
    fn residual_values(self, inputs: &[&Host]) -> Option<Host> {
        let [codes, state] = self.coded_residual()?.map(|i| inputs[i]);
        let values = Dequantize { inner: 1, to: self.to }.reference(&[codes, state], &[codes.ty().with_dtype(self.to)]);
        values.into_iter().next()
    }

    /// Adds what a kernel needs behind its sums: `store_y` and its bindings. `terms` is the length of the sums, `n` the number of
    /// output channels of each of some `products`, `x_states` what the kernel binds for x: indices of inputs and the names of where they are.
    pub(super) fn finish(
        self,
        dispatch: Dispatch,
        products: usize,
        n: usize,
        terms: usize,
        x_states: &[(usize, &'static str)],
    ) -> Dispatch {
        let four = n.is_multiple_of(4);
        let dispatch = match products {
            1 => dispatch.part(wgsl!("integer/one_product.wgsl")),
            _ => dispatch.constant("PRODUCTS", products).part(wgsl!("integer/products.wgsl")),
        };
        let [scale, shift, residual] = self.epilogue.indices(Self::FIRST);
        // What is absent is bound to something and never read.
        let mut inputs = vec![0, 1, scale.unwrap_or(Self::X_STATE), shift.unwrap_or(Self::X_STATE)];
        // Codes alone are rounded to the type without having it.
        let has_floats = residual.is_some() && !self.residual_codes || self.requantize.is_none_or(|r| r.keep);
        let mut dispatch = self.finished(dispatch.element("element_y", if has_floats { self.to } else { DType::F32 }), terms);
        for &(input, name) in x_states {
            inputs.push(input);
            dispatch = dispatch.constant(name, inputs.len());
        }
        if residual.is_some() || !four {
            inputs.push(residual.unwrap_or(Self::X_STATE));
            dispatch = dispatch.constant("AT_RESIDUAL", inputs.len());
        }
        if let Some([_, state]) = self.coded_residual() {
            inputs.push(state);
            dispatch = dispatch.constant("AT_RESIDUAL_STATE", inputs.len());
        }
        if self.requantize.is_some() {
            inputs.push(Self::FIRST + self.epilogue.inputs() + usize::from(self.residual_codes));
            dispatch = dispatch.constant("AT_OUT", inputs.len());
        }
        dispatch = dispatch.constant("AT_Y", inputs.len() + 1);
        if !four {
            return dispatch.part(wgsl!("integer/finish_scalar.wgsl")).bind(inputs);
        }
        let residual = match residual {
            None => wgsl!("integer/no_residual.wgsl"),
            Some(_) if self.residual_codes => wgsl!("integer/residual_codes.wgsl"),
            Some(_) => wgsl!("integer/residual.wgsl"),
        };
        dispatch = self.store(dispatch.flag("HALF_Y", self.to == DType::F16), products, n, inputs.len() + 1);
        dispatch.part(residual).part(wgsl!("integer/finish.wgsl")).bind(inputs)
    }

    /// Adds what `common/finished.wgsl` wants, for sums of so many products.
    pub(super) fn finished(self, dispatch: Dispatch, terms: usize) -> Dispatch {
        let exact = self.bits.exact_terms();
        self.epilogue.constants(dispatch).flag("IN_PARTS", terms > exact).flag("ARE_SMALL", 4 * terms <= exact)
    }

    /// Adds the piece that stores results, whose bindings begin with `first`.
    fn store(self, dispatch: Dispatch, products: usize, n: usize, first: usize) -> Dispatch {
        let Some(Requantize { levels, quantizers, groups, keep, again }) = self.requantize else {
            return dispatch.part(wgsl!("integer/store_floats.wgsl"));
        };
        let dispatch = dispatch
            .constant("AT_CODES", first + usize::from(keep))
            .flag("ARE_TWO", quantizers == 2 || again.is_some())
            .constant("OUT_GROUPS", products * groups)
            .constant("OUT_INNER", n / groups / 4)
            .constant("HALF", 1 << (levels.bits - 1))
            .constant("OFFSET", if levels.signed { 0 } else { 1 << (levels.bits - 1) });
        let dispatch = match again {
            None => dispatch.part(wgsl!("integer/next_codes.wgsl")),
            Some(levels) => dispatch
                .constant("NEXT_HALF", 1 << (levels.bits - 1))
                .constant("NEXT_OFFSET", levels.offset() as usize)
                .part(wgsl!("integer/next_codes_of_codes.wgsl")),
        };
        let dispatch = dispatch.part(wgsl!("integer/codes_of.wgsl"));
        dispatch.part(if keep { wgsl!("integer/store_both.wgsl") } else { wgsl!("integer/store_codes.wgsl") })
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
