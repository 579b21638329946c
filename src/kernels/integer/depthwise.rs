//! Depthwise convolutions on codes: x i8 `[B, H, W, C]` and w i8 `[C, kh, kw, 1]` to floats `[B, H', W', C]`. Outside of the image
//! stands the stored zero of x. Bound by memory, like the one on floats; portable for every device.

use super::conv::result_shape;
use super::gradient::{assert_plain, weight_values};
use super::scale::shift_gradients;
use super::{Arithmetic, coded_ends, test_arithmetics, test_codes, test_inputs};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::Case;
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::kernels::conv::{Window, unfold};
use crate::kernels::depthwise::{ENOUGH_INVOCATIONS, GROUP};
use crate::kernels::depthwise_backward::{DepthwiseInputGradient, DepthwiseWeightGradient};
use crate::kernels::quantize::dequantize;
use crate::kernels::reduce;
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

/// See the module, and [`Arithmetic`] for the inputs.
#[derive(Clone, Copy, Debug)]
pub struct IntegerDepthwise {
    /// How the window moves.
    pub window: Window,
    /// Bits, epilogue and result.
    pub arithmetic: Arithmetic,
}

impl Op for IntegerDepthwise {
    fn name(&self) -> &'static str {
        "integer_depthwise"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        assert!(inputs.len() >= Arithmetic::FIRST, "integer_depthwise: wants x, w and their states, found {}", ids(inputs));
        let (c, [n, kh, kw, one]) = (inputs[0].shape.bhwc()[3], inputs[1].shape.bhwc());
        let fits = n == c && one == 1 && inputs[..2].iter().all(|t| t.dtype == DType::I8);
        assert!(fits, "integer_depthwise: wants codes x [B, H, W, C] and w [C, kh, kw, 1], found {}", ids(inputs));
        let most = self.arithmetic.bits.exact_terms();
        assert!(kh * kw <= most, "integer_depthwise: more than {most} taps: {}", ids(inputs));
        self.arithmetic.outputs(self.name(), inputs, 1, result_shape(self.name(), self.window, inputs), kh * kw)
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (x, w) = (inputs[0].as_i8(), inputs[1].as_i8());
        let zero = inputs[Arithmetic::X_STATE].to_f32()[3] as i8;
        let (image, [c, kh, kw, _]) = (inputs[0].shape().bhwc(), inputs[1].shape().bhwc());
        let shape = result_shape(self.name(), self.window, &[inputs[0].ty(), inputs[1].ty()]);
        let [_, out_height, out_width, _] = shape.bhwc();
        let mut sums = vec![0; shape.len()];
        for (pixel, sums) in sums.chunks_mut(c).enumerate() {
            let at = [pixel / (out_height * out_width), pixel / out_width % out_height, pixel % out_width];
            let window = unfold(x, image, at, [kh, kw], self.window, 0..c, zero);
            for (i, &x) in window.iter().enumerate() {
                sums[i % c] += i32::from(x) * i32::from(w[i % c * kh * kw + i / c]);
            }
        }
        self.arithmetic.reference(inputs, &sums, shape, outputs)
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let ([_, height, width, c], [_, kernel_height, kernel_width, _]) = (inputs[0].shape.bhwc(), inputs[1].shape.bhwc());
        let [b, out_height, out_width, _] = result_shape(self.name(), self.window, inputs).bhwc();
        let pieces = c.div_ceil(4);
        let invocations = |pixels: usize| b * out_height * out_width.div_ceil(pixels) * pieces;
        let pixels = if invocations(4) >= ENOUGH_INVOCATIONS { 4 } else { 1 };
        let n = invocations(pixels);
        let Window { stride, padding, dilation } = self.window;
        let x = if c.is_multiple_of(4) { wgsl!("integer/depthwise_words.wgsl") } else { wgsl!("integer/depthwise_bytes.wgsl") };
        let sizes = [b * out_height * out_width, c, n, height, width, pieces, out_height, out_width, stride, padding, dilation];
        let dispatch = Dispatch::new(wgsl!("integer/depthwise.wgsl"), 2)
            .constant("GROUP", GROUP)
            .constant("PIXELS", pixels)
            .constant("KERNEL_HEIGHT", kernel_height)
            .constant("KERNEL_WIDTH", kernel_width)
            .constant("TAPS", kernel_height * kernel_width)
            .part(x)
            .params(Words::of(sizes))
            .over_items(n, GROUP);
        vec![self.arithmetic.finish(dispatch, 1, c, kernel_height * kernel_width, &[(Arithmetic::X_STATE, "AT_STATE")])]
    }

    fn gradient(&self, g: &mut Graph, io: &Io, d_outputs: &[Option<Var>], wanted: &[bool]) -> Vec<Option<Var>> {
        assert_plain(self.name(), self.arithmetic);
        let Some(d_y) = d_outputs[0] else { return vec![None; wanted.len()] };
        let ([_, height, width, _], [_, kh, kw, _]) = (g.shape(io.inputs[0]).bhwc(), g.shape(io.inputs[1]).bhwc());
        let d_x = wanted[0].then(|| {
            let w = weight_values(g, d_y, io);
            g.apply(DepthwiseInputGradient { window: self.window, size: [height, width] }, &[d_y, w])
        });
        let d_w = wanted[1].then(|| {
            let (shape, to) = (g.shape(io.inputs[1]), g.ty(d_y).dtype);
            let x = dequantize(g, io.inputs[0], io.inputs[Arithmetic::X_STATE], 1, to);
            let parts = g.apply(DepthwiseWeightGradient { window: self.window, kernel: [kh, kw] }, &[x, d_y]);
            let d_w = reduce::column_sums(g, parts, DType::F32);
            g.reshape(d_w, shape.dims())
        });
        [d_x, d_w].into_iter().chain(shift_gradients(g, self.arithmetic, d_y, wanted)).collect()
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        let taps = inputs[1].shape.len() / inputs[1].shape.dims()[0];
        2 * (result_shape(self.name(), self.window, inputs).len() * taps) as u64
    }
}

/// Cases of the op table: image `[B, H, W, C]`, kernel `[kh, kw]`, window, bits.
pub(super) fn cases() -> Vec<Case> {
    let window = |stride, padding, dilation| Window { stride, padding, dilation };
    let shapes = [
        ([1, 1, 1, 1], [1, 1], window(1, 0, 1), [8, 8]),
        ([1, 1, 1, 4], [3, 3], window(1, 1, 1), [4, 4]),
        ([2, 9, 7, 24], [3, 3], window(1, 1, 1), [4, 4]),
        ([1, 7, 10, 33], [3, 3], window(2, 1, 1), [8, 8]),
        ([1, 10, 9, 6], [5, 5], window(1, 4, 2), [2, 8]),
        ([2, 5, 3, 8], [2, 3], window(3, 2, 1), [8, 3]),
        ([1, 66, 67, 256], [3, 3], window(1, 1, 1), [8, 8]),
        ([1, 67, 258, 65], [3, 3], window(2, 1, 1), [4, 4]),
    ];
    let mut cases = Vec::new();
    for (i, (image, [kh, kw], window, bits)) in shapes.into_iter().enumerate() {
        let (x, w) = (test_codes(image, bits[0], i as u64), test_codes([image[3], kh, kw, 1], bits[1], 50 + i as u64));
        let y = result_shape("a case", window, &[x.ty(), w.ty()]);
        for arithmetic in test_arithmetics(i, bits, image[3], 1) {
            let inputs = test_inputs(arithmetic, x.clone(), w.clone(), -1.0, y.dims(), kh * kw);
            cases.push(Case::new(IntegerDepthwise { window, arithmetic }, inputs, Tolerance::EXACT));
        }
    }
    let window = window(1, 1, 1);
    for arithmetic in coded_ends().into_iter().filter(|a| a.is_bindable(1)) {
        let (x, w) = (test_codes([1, 5, 9, 12], 4, 40), test_codes([12, 3, 3, 1], 8, 41));
        let inputs = test_inputs(arithmetic, x, w, -2.0, &[1, 5, 9, 12], 9);
        cases.push(Case::new(IntegerDepthwise { window, arithmetic }, inputs, Tolerance::EXACT));
    }
    cases
}
