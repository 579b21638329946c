//! Depthwise convolutions, channels last: PyTorch's `nn.Conv2d` with as many groups as channels.
//!
//! `y[b, oy, ox, c] = epilogue(Σ_{ky, kx} x[b, oy·s − p + ky·d, ox·s − p + kx·d, c] · w[c, ky, kx])`, zero outside.
//!
//! Shapes: x `[B, H, W, C]`, w `[C, kh, kw, 1]`, then the epilogue's inputs; y `[B, H', W', C]`.
//! No GEMM: each channel has its own few weights, and the op is bound by memory. Saved for backward: x and w.

use super::conv::{Conv2d, Window};
use super::depthwise_backward::{self, DepthwiseInputGradient, DepthwiseWeightGradient};
use super::epilogue::{Activation, Epilogue};
use super::linear::{epilogue_inputs, half};
use super::reduce;
use super::rows::{lanes, width_of};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

pub(crate) const GROUP: usize = 128;
/// Invocations that keep a large GPU busy: below that, each computes one pixel only.
pub(crate) const ENOUGH_INVOCATIONS: usize = 1 << 16;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Depthwise {
    /// How the window moves.
    pub window: Window,
    /// What happens to each sum.
    pub epilogue: Epilogue,
}

impl Depthwise {
    fn kernel(self, inputs: &[TensorType], y: TensorType, width: usize) -> Dispatch {
        let ([_, height, x_width, channels], [b, out_height, out_width, _]) = (inputs[0].shape.bhwc(), y.shape.bhwc());
        let [_, kernel_height, kernel_width, _] = inputs[1].shape.bhwc();
        let pieces = channels / width;
        let invocations = |pixels: usize| b * out_height * out_width.div_ceil(pixels) * pieces;
        let pixels = if invocations(4) >= ENOUGH_INVOCATIONS { 4 } else { 1 };
        let n = invocations(pixels);
        let Window { stride, padding, dilation } = self.window;
        let [scale, shift, residual] = self.epilogue.bindings(2);
        let weights = if width == 4 { wgsl!("depthwise/w_vec4.wgsl") } else { wgsl!("depthwise/w_scalar.wgsl") };
        let dispatch = Dispatch::new(wgsl!("depthwise/forward.wgsl"), 5)
            .bind([0, 1, scale, shift, residual])
            .wide("wide_x", inputs[0].dtype, width)
            .element("element_w", inputs[1].dtype)
            .constant("GROUP", GROUP)
            .constant("PIXELS", pixels)
            .constant("KERNEL_HEIGHT", kernel_height)
            .constant("KERNEL_WIDTH", kernel_width)
            .constant("TAPS", kernel_height * kernel_width)
            .part(weights)
            .params(Words::of([n, height, x_width, pieces, out_height, out_width, stride, padding, dilation]))
            .over_items(n, GROUP);
        lanes(self.epilogue.constants(dispatch), width)
    }

    /// The same convolution as one with groups.
    fn grouped(self, channels: usize) -> Conv2d {
        Conv2d { window: self.window, groups: channels, epilogue: self.epilogue }
    }
}

impl Op for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        assert!(inputs.len() >= 2, "depthwise: wants x and w, found {}", ids(inputs));
        let (c, w) = (inputs[0].shape.bhwc()[3], inputs[1].shape.bhwc());
        assert!(w[0] == c && w[3] == 1, "depthwise: wants x [B, H, W, C] and w [C, kh, kw, 1], found {}", ids(inputs));
        self.grouped(c).outputs(inputs)
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        self.grouped(inputs[0].shape().last()).reference(inputs, outputs)
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        width_of(inputs[0].shape.last()).map(|width| self.kernel(inputs, outputs[0], width)).collect()
    }

    /// Only of a bare convolution, or one with a bias: other epilogues appear when a graph is fused, after its backward.
    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], wanted: &[bool]) -> Vec<Option<Var>> {
        let is_bare = self.epilogue == Epilogue::bias(self.epilogue.shift);
        assert!(is_bare, "depthwise: differentiate the graph before it is fused, found {:?}", self.epilogue);
        let Some(d_y) = d_outputs[0] else { return vec![None; io.inputs.len()] };
        let (x, w, window) = (io.inputs[0], io.inputs[1], self.window);
        let ([_, height, width, _], [_, kh, kw, _]) = (graph.shape(x).bhwc(), graph.shape(w).bhwc());
        let d_x = wanted[0].then(|| graph.apply(DepthwiseInputGradient { window, size: [height, width] }, &[d_y, w]));
        let d_w = wanted[1].then(|| {
            let parts = graph.apply(DepthwiseWeightGradient { window, kernel: [kh, kw] }, &[x, d_y]);
            let (shape, to) = (graph.shape(w), graph.ty(w).dtype);
            let d_w = reduce::column_sums(graph, parts, to);
            graph.reshape(d_w, shape.dims())
        });
        let d_shift = wanted.get(2).map(|wanted| wanted.then(|| reduce::column_sums(graph, d_y, DType::F32)));
        [d_x, d_w].into_iter().chain(d_shift).collect()
    }

    fn operations(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        let taps = inputs[1].shape.len() / inputs[1].shape.dims()[0];
        2 * (outputs[0].shape.len() * taps) as u64
    }
}

/// A depthwise convolution without bias: what precedes a batch norm.
///
/// # Panics
/// When shapes or types do not fit.
#[track_caller]
pub fn depthwise(g: &mut Graph, x: Var, w: Var, window: Window) -> Var {
    g.apply(Depthwise { window, epilogue: Epilogue::default() }, &[x, w])
}

/// Cases of the op table: image `[B, H, W, C]`, kernel `[kh, kw]`, window.
pub fn cases() -> Vec<Case> {
    let window = |stride, padding, dilation| Window { stride, padding, dilation };
    let all = Epilogue { scale: true, shift: true, residual: true, activation: Activation::Relu6 };
    let shapes = [
        ([1, 1, 1, 1], [1, 1], window(1, 0, 1)),
        ([1, 1, 1, 4], [3, 3], window(1, 1, 1)),
        ([2, 9, 7, 24], [3, 3], window(1, 1, 1)),
        ([1, 7, 10, 33], [3, 3], window(2, 1, 1)),
        ([1, 10, 9, 6], [5, 5], window(1, 4, 2)),
        ([2, 5, 3, 8], [2, 3], window(3, 2, 1)),
        ([1, 66, 67, 256], [3, 3], window(1, 1, 1)),
        ([1, 67, 258, 65], [3, 3], window(2, 1, 1)),
        ([1, 4, 3, 12], [3, 3], window(1, 4, 4)),
    ];
    let mut cases = Vec::new();
    for (i, (image, [kh, kw], window)) in shapes.into_iter().enumerate() {
        for epilogue in [Epilogue::default(), Epilogue::bias(true), all] {
            let op = Depthwise { window, epilogue };
            let mut inputs = vec![noise(image, i as u64), noise([image[3], kh, kw, 1], 2)];
            let y = Depthwise { window, ..Depthwise::default() }.outputs(&[inputs[0].ty(), inputs[1].ty()])[0];
            inputs.extend(epilogue_inputs(epilogue, y.shape.dims()));
            let case = Case::new(op, inputs, Tolerance::of(1e-5));
            cases.extend([half(&case, kh * kw), case]);
        }
        cases.extend(depthwise_backward::cases(&noise(image, i as u64), [kh, kw], window));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "wants x [B, H, W, C] and w [C, kh, kw, 1]")]
    fn weights_of_an_ordinary_convolution_are_refused() {
        Depthwise::default().outputs(&[TensorType::f32([1, 4, 4, 8]), TensorType::f32([8, 3, 3, 8])]);
    }
}
