//! Convolutions on codes, channels last, as implicit GEMM: x i8 `[B, H, W, C]` and w i8 `[N, kh, kw, C]` to floats
//! `[B, H', W', N]`. Outside of the image stands the stored zero of x. One group.

use super::gradient::{assert_plain, weight_gradient, weight_values};
use super::product::{IntegerProduct, dot};
use super::scale::shift_gradients;
use super::{Arithmetic, Bits, Requantize, all_ends, test_arithmetic, test_arithmetics, test_codes, test_inputs, test_state};
use crate::gpu::{Capabilities, Dispatch};
use crate::graph::check::Case;
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::kernels::conv::{Conv2d, Window, unfold};
use crate::kernels::conv_gradient::image_gradient;
use crate::kernels::quantize::{Levels, Recode};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, Shape, TensorType};
use rayon::prelude::*;

/// See the module, and [`Arithmetic`] for the inputs.
#[derive(Clone, Copy, Debug)]
pub struct IntegerConv {
    /// How the window moves.
    pub window: Window,
    /// Bits, epilogue and result.
    pub arithmetic: Arithmetic,
    /// Levels of the codes that are multiplied, where x is codes of another quantizer: they are made while these are loaded, as
    /// [`Recode`] makes them through floats `to`, and the state f32 `[1, 4]` of that other quantizer is the last input. For windows of one
    /// pixel. It appears when graphs are fused.
    pub recodes: Option<Levels>,
}

impl IntegerConv {
    /// A convolution of the codes that are its input.
    pub fn new(window: Window, arithmetic: Arithmetic) -> Self {
        Self { window, arithmetic, recodes: None }
    }

    /// How many states kernels bind for x: its own where they need the code of padding, that of the codes it is made of beside it where they
    /// recode.
    pub(super) fn x_states(self) -> usize {
        if self.recodes.is_some() { 2 } else { usize::from(self.window.padding > 0) }
    }

    /// Whether there is room to make the codes of x while other codes are loaded, for so many channels of x and of the result.
    pub(crate) fn can_recode(self, channels: usize, n: usize) -> bool {
        let Window { stride, padding, .. } = self.window;
        (stride, padding) == (1, 0) && channels.is_multiple_of(4) && n.is_multiple_of(4) && self.arithmetic.is_bindable(2)
    }

    /// The inputs without the state of the codes that x is made of.
    fn own<T>(self, inputs: &[T]) -> &[T] {
        &inputs[..inputs.len() - usize::from(self.recodes.is_some())]
    }

    fn product(self, inputs: &[TensorType]) -> IntegerProduct {
        let forward = Conv2d { window: self.window, groups: 1, epilogue: self.arithmetic.epilogue };
        let y = TensorType { shape: result_shape(self.name(), self.window, inputs), dtype: self.arithmetic.to };
        IntegerProduct {
            geometry: forward.product(inputs, &[y]),
            arithmetic: self.arithmetic,
            recodes: self.recodes.map(|levels| (levels, inputs.len() - 1)),
        }
    }
}

/// The shape of a convolution's result, for x and w on codes.
///
/// # Panics
/// When no window fits, with the op's name.
#[track_caller]
pub(super) fn result_shape(op: &str, window: Window, inputs: &[TensorType]) -> Shape {
    let ([b, height, width, _], [n, kh, kw, _]) = (inputs[0].shape.bhwc(), inputs[1].shape.bhwc());
    let extent = window.output(height, kh).zip(window.output(width, kw));
    let (h, w) = extent.unwrap_or_else(|| panic!("{op} {window:?}: no window fits {}", ids(inputs)));
    Shape::new([b, h, w, n])
}

impl Op for IntegerConv {
    fn name(&self) -> &'static str {
        "integer_conv"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        assert!(inputs.len() >= Arithmetic::FIRST, "integer_conv: wants x, w and their states, found {}", ids(inputs));
        let (x, w) = (inputs[0], inputs[1]);
        let fits = x.shape.bhwc()[3] == w.shape.bhwc()[3] && [x, w].iter().all(|t| t.dtype == DType::I8);
        assert!(fits, "integer_conv: wants codes x [B, H, W, C] and w [N, kh, kw, C], found {}", ids(inputs));
        let y = result_shape(self.name(), self.window, inputs);
        if let Some(levels) = self.recodes {
            let is_point = self.can_recode(x.shape.last(), y.last()) && w.shape.len() == y.last() * x.shape.last();
            let fits = levels.bits == self.arithmetic.bits.x && inputs[inputs.len() - 1] == TensorType::f32([1, 4]) && is_point;
            assert!(fits, "integer_conv: {self:?} recodes for windows of one pixel, with one more state, found {}", ids(inputs));
        }
        self.arithmetic.outputs(self.name(), self.own(inputs), 1, y, w.shape.len() / y.last())
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        if let Some(levels) = self.recodes {
            let recode = Recode { through: self.arithmetic.to, levels, step: 1 };
            let x = recode.reference(&[inputs[0], inputs[inputs.len() - 1], inputs[Arithmetic::X_STATE]], &[inputs[0].ty()]);
            let inputs = [&[&x[0]], &self.own(inputs)[1..]].concat();
            return Self { recodes: None, ..*self }.reference(&inputs, outputs);
        }
        let (x, w) = (inputs[0].as_i8(), inputs[1].as_i8());
        let zero = inputs[Arithmetic::X_STATE].to_f32()[3] as i8;
        let (image, [n, kh, kw, channels]) = (inputs[0].shape().bhwc(), inputs[1].shape().bhwc());
        let shape = result_shape(self.name(), self.window, &[inputs[0].ty(), inputs[1].ty()]);
        let [_, out_height, out_width, _] = shape.bhwc();
        let mut sums = vec![0; shape.len()];
        sums.par_chunks_mut(n).enumerate().for_each(|(pixel, sums)| {
            let at = [pixel / (out_height * out_width), pixel / out_width % out_height, pixel % out_width];
            let window = unfold(x, image, at, [kh, kw], self.window, 0..channels, zero);
            for (sum, w) in sums.iter_mut().zip(w.chunks(window.len())) {
                *sum = dot(&window, w);
            }
        });
        self.arithmetic.reference(inputs, &sums, shape, outputs)
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], device: &Capabilities) -> Vec<Dispatch> {
        self.product(inputs).kernels(device)
    }

    fn gradient(&self, g: &mut Graph, io: &Io, d_outputs: &[Option<Var>], wanted: &[bool]) -> Vec<Option<Var>> {
        assert_plain(self.name(), self.arithmetic);
        assert_eq!(self.recodes, None, "integer_conv: differentiate the graph before it is fused");
        let Some(d_y) = d_outputs[0] else { return vec![None; wanted.len()] };
        let ([_, height, width, _], [_, kh, kw, _]) = (g.shape(io.inputs[0]).bhwc(), g.shape(io.inputs[1]).bhwc());
        let d_x = wanted[0].then(|| {
            let w = weight_values(g, d_y, io);
            image_gradient(g, d_y, w, self.window, [height, width])
        });
        let d_w = wanted[1].then(|| weight_gradient(g, d_y, io, Some((self.window, [kh, kw]))));
        [d_x, d_w].into_iter().chain(shift_gradients(g, self.arithmetic, d_y, wanted)).collect()
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        self.product(inputs).geometry.operations()
    }
}

/// Cases of the op table: image `[B, H, W, C]`, kernel `[N, kh, kw]`, window, bits.
pub(super) fn cases() -> Vec<Case> {
    let window = |stride, padding, dilation| Window { stride, padding, dilation };
    let shapes = [
        ([1, 1, 1, 1], [1, 1, 1], window(1, 0, 1), [8, 8]),
        ([2, 5, 7, 4], [8, 1, 1], window(1, 0, 1), [4, 4]),
        ([1, 9, 11, 8], [12, 1, 1], window(2, 0, 1), [2, 2]),
        ([2, 13, 17, 3], [64, 7, 7], window(2, 3, 1), [8, 8]),
        ([1, 10, 10, 16], [20, 3, 3], window(1, 1, 1), [4, 4]),
        ([1, 11, 5, 20], [33, 3, 3], window(2, 1, 1), [3, 8]),
        ([1, 9, 9, 8], [16, 3, 3], window(1, 2, 2), [4, 2]),
        ([1, 3, 2, 5], [7, 2, 3], window(3, 2, 1), [8, 4]),
        ([1, 21, 23, 36], [68, 3, 3], window(1, 1, 1), [4, 4]),
        // Sums that need parts, with padding.
        ([1, 4, 5, 128], [8, 3, 3], window(1, 1, 1), [8, 8]),
        ([1, 6, 9, 16], [12, 3, 3], window(2, 0, 1), [4, 4]),
        // Few channels: rows of taps shorter and longer than eight elements, lines narrower and wider than a row of taps.
        ([2, 9, 6, 1], [13, 3, 5], window(1, 2, 1), [8, 8]),
        ([1, 12, 19, 3], [8, 3, 3], window(2, 1, 1), [4, 4]),
        ([2, 5, 3, 7], [68, 3, 7], window(1, 3, 1), [8, 4]),
        ([2, 9, 6, 1], [12, 3, 5], window(1, 2, 1), [8, 8]),
        // For matrices of bytes.
        ([2, 13, 11, 48], [132, 3, 3], window(1, 1, 1), [4, 8]),
        ([1, 17, 9, 32], [64, 3, 3], window(2, 1, 1), [8, 8]),
        ([1, 9, 16, 16], [36, 2, 2], window(1, 0, 1), [8, 4]),
    ];
    let mut cases = Vec::new();
    for (i, (image, [n, kh, kw], window, bits)) in shapes.into_iter().enumerate() {
        let (x, w) = (test_codes(image, bits[0], i as u64), test_codes([n, kh, kw, image[3]], bits[1], 50 + i as u64));
        let y = result_shape("a case", window, &[x.ty(), w.ty()]);
        let lowest = -((1 << (bits[0] - 1)) as f32);
        for arithmetic in test_arithmetics(i, bits, n, usize::from(window.padding > 0)) {
            let inputs = test_inputs(arithmetic, x.clone(), w.clone(), lowest + (i % 2) as f32, y.dims(), kh * kw * image[3]);
            cases.push(Case::new(IntegerConv::new(window, arithmetic), inputs, Tolerance::EXACT));
        }
    }
    let windows = [(window(1, 0, 1), 1, 16), (window(1, 1, 1), 3, 16), (window(2, 0, 1), 1, 16), (window(2, 3, 1), 7, 3)];
    for (window, side, channels) in windows {
        let (image, n) = ([1, 7 * window.stride, 19 * window.stride, channels], 132);
        cases.extend(all_ends(usize::from(window.padding > 0)).into_iter().map(|arithmetic| {
            let (x, w) = (test_codes(image, 4, 40), test_codes([n, side, side, channels], 8, 41));
            let inputs = test_inputs(arithmetic, x, w, -2.0, &[1, 7, 19, n], side * side * channels);
            Case::new(IntegerConv::new(window, arithmetic), inputs, Tolerance::EXACT)
        }));
    }
    cases.extend(recoded_cases());
    cases
}

/// Codes of other bits that are made while codes of 8 bits are loaded: for words and for chunks, to floats and codes, beside residuals.
fn recoded_cases() -> impl Iterator<Item = Case> {
    let cases = [
        ([1, 3, 5, 4], 8, Levels::new(4, false), DType::F16, true),
        ([2, 5, 7, 20], 12, Levels::new(2, true), DType::F32, false),
        ([1, 9, 11, 48], 68, Levels::new(4, true), DType::F32, true),
        ([2, 17, 9, 64], 64, Levels::new(4, false), DType::F16, true),
        ([1, 13, 21, 256], 132, Levels::new(3, false), DType::F16, false),
    ];
    cases.into_iter().enumerate().map(|(i, (image, n, levels, to, to_codes))| {
        let next = Requantize { levels: Levels::new(4, i % 2 == 0), quantizers: 1, groups: 1, keep: false, again: None };
        let arithmetic =
            Arithmetic { bits: Bits { x: levels.bits, w: 4 }, to, requantize: to_codes.then_some(next), ..test_arithmetic(1, [4, 4]) };
        let [batch, height, width, channels] = image;
        let (x, w) = (test_codes(image, 8, 70 + i as u64), test_codes([n, 1, 1, channels], 4, 80 + i as u64));
        let mut inputs = test_inputs(arithmetic, x, w, 0.0, &[batch, height, width, n], channels);
        // Ten times finer than the state of x that test_inputs makes, about zeros of their own.
        inputs[Arithmetic::X_STATE] = test_state(1, 0.2, if levels.signed { 1.0 } else { -2.0 }, 90);
        inputs.push(test_state(1, 0.02, -3.0, 91));
        Case::new(IntegerConv { recodes: Some(levels), ..IntegerConv::new(Window::default(), arithmetic) }, inputs, Tolerance::EXACT)
    })
}
