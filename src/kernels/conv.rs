//! Convolutions, channels last, as implicit GEMM: PyTorch's `nn.Conv2d` with any stride, padding, dilation and groups.
//!
//! `y[b, oy, ox, n] = epilogue(Σ_{ky, kx, c} x[b, oy·s − p + ky·d, ox·s − p + kx·d, c] · w[n, ky, kx, c])`, zero outside.
//!
//! Shapes: x `[B, H, W, C]`, w `[N, kh, kw, C/groups]`, then the epilogue's inputs; y `[B, H', W', N]`.
//! Depthwise convolutions (one channel a group) have kernels of their own: a GEMM of one column wastes its tile.

use super::conv_gradient::{image_gradient, weight_gradient};
use super::epilogue::{Activation, Epilogue};
use super::gemm::{self, Layout, Operands, Product, Windows};
use super::linear::{epilogue_inputs, half};
use super::reduce;
use crate::gpu::{Capabilities, Dispatch};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use rayon::prelude::*;

/// How a window moves: the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Pixels between neighbouring windows.
    pub stride: usize,
    /// Zeros around the image.
    pub padding: usize,
    /// Pixels between neighbouring taps.
    pub dilation: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self { stride: 1, padding: 0, dilation: 1 }
    }
}

impl Window {
    /// The extent of the output for an input extent and a kernel extent; `None` when no window fits.
    pub fn output(self, input: usize, kernel: usize) -> Option<usize> {
        let covered = self.dilation * (kernel - 1) + 1;
        let room = (input + 2 * self.padding).checked_sub(covered)?;
        Some(room / self.stride + 1)
    }
}

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conv2d {
    /// How the window moves.
    pub window: Window,
    /// Groups; 0 counts as 1.
    pub groups: usize,
    /// What happens to each sum.
    pub epilogue: Epilogue,
}

impl Conv2d {
    fn groups(self) -> usize {
        self.groups.max(1)
    }

    pub(crate) fn product(self, inputs: &[TensorType], outputs: &[TensorType]) -> Product {
        let [_, height, width, channels] = inputs[0].shape.bhwc();
        let [n, kernel_height, kernel_width, group_channels] = inputs[1].shape.bhwc();
        let [b, out_height, out_width, _] = outputs[0].shape.bhwc();
        let Window { stride, padding, dilation } = self.window;
        let pointwise = kernel_height * kernel_width == 1 && stride == 1 && padding == 0 && self.groups() == 1;
        let windows = Windows {
            height,
            width,
            channels,
            group_channels,
            out_height,
            out_width,
            kernel_height,
            kernel_width,
            stride,
            padding,
            dilation,
        };
        Product {
            m: b * out_height * out_width,
            n: n / self.groups(),
            k: kernel_height * kernel_width * group_channels,
            groups: self.groups(),
            splits: 1,
            types: gemm::types(inputs, outputs),
            operands: if pointwise { Operands::Matrices(Layout::Rows, Layout::Rows) } else { Operands::Windows(windows) },
            epilogue: self.epilogue,
        }
    }
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        assert!(inputs.len() >= 2, "conv: wants x and w, found {}", ids(inputs));
        let (x, w) = (inputs[0], inputs[1]);
        let [b, height, width, channels] = x.shape.bhwc();
        let [n, kh, kw, group_channels] = w.shape.bhwc();
        let fits = group_channels * self.groups() == channels && n.is_multiple_of(self.groups()) && x.dtype == w.dtype;
        assert!(fits, "conv {self:?}: wants x [B, H, W, C] and w [N, kh, kw, C/groups], found {}", ids(inputs));
        let (h, w) = (self.window.output(height, kh), self.window.output(width, kw));
        let (Some(h), Some(w)) = (h, w) else { panic!("conv {self:?}: no window fits {}", ids(inputs)) };
        let y = TensorType::new([b, h, w, n], x.dtype);
        self.epilogue.check("conv", 2, inputs, y);
        vec![y]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (x, w) = (inputs[0].to_f32(), inputs[1].to_f32());
        let image = inputs[0].shape().bhwc();
        let [n, kh, kw, group_channels] = inputs[1].shape().bhwc();
        let [_, out_height, out_width, _] = outputs[0].shape.bhwc();
        let per_group = n / self.groups();
        let k = kh * kw * group_channels;
        let mut y = vec![0.0; outputs[0].shape.len()];
        y.par_chunks_mut(n).enumerate().for_each(|(pixel, y)| {
            let at = [pixel / (out_height * out_width), pixel / out_width % out_height, pixel % out_width];
            for (group, y) in y.chunks_mut(per_group).enumerate() {
                let window = unfold(&x, image, at, [kh, kw], self.window, group * group_channels..(group + 1) * group_channels, 0.0);
                for (j, y) in y.iter_mut().enumerate() {
                    let row = group * per_group + j;
                    *y = super::linear::dot(&window, &w[row * k..(row + 1) * k]);
                }
            }
        });
        self.epilogue.reference(2, inputs, &mut y, n);
        vec![Host::from_f32(outputs[0], y)]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], device: &Capabilities) -> Vec<Dispatch> {
        self.product(inputs, outputs).kernels(device)
    }

    fn gradient(&self, g: &mut Graph, io: &Io, d_outputs: &[Option<Var>], wanted: &[bool]) -> Vec<Option<Var>> {
        assert_eq!(self.epilogue, Epilogue::bias(self.epilogue.shift), "conv: differentiate before fusing");
        assert_eq!(self.groups(), 1, "conv: grouped convolutions have no gradient (depthwise ones have)");
        let Some(d_y) = d_outputs[0] else { return vec![None; wanted.len()] };
        let (x, w) = (io.inputs[0], io.inputs[1]);
        let [_, height, width, _] = g.shape(x).bhwc();
        let [n, kh, kw, _] = g.shape(w).bhwc();
        let d_x = wanted[0].then(|| image_gradient(g, d_y, w, self.window, [height, width]));
        let d_w = wanted[1].then(|| weight_gradient(g, d_y, x, self.window, [kh, kw]));
        let d_bias = wanted.get(2).map(|&wanted| {
            wanted.then(|| {
                let rows = g.shape(d_y).rows();
                let d_y = g.reshape(d_y, [rows, n]);
                reduce::column_sums(g, d_y, DType::F32)
            })
        });
        [d_x, d_w].into_iter().chain(d_bias).collect()
    }

    fn operations(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        self.product(inputs, outputs).operations()
    }
}

/// The window of one output pixel `[b, oy, ox]`, restricted to some channels, with `zero` outside the image.
pub(crate) fn unfold<T: Copy>(
    x: &[T],
    [_, height, width, channels]: [usize; 4],
    [b, oy, ox]: [usize; 3],
    [kh, kw]: [usize; 2],
    window: Window,
    group: std::ops::Range<usize>,
    zero: T,
) -> Vec<T> {
    let mut values = Vec::with_capacity(kh * kw * group.len());
    let inside = |o: usize, tap: usize, extent: usize| {
        (o * window.stride + tap * window.dilation).checked_sub(window.padding).filter(|&i| i < extent)
    };
    for ky in 0..kh {
        for kx in 0..kw {
            match (inside(oy, ky, height), inside(ox, kx, width)) {
                (Some(y), Some(x_)) => {
                    let pixel = ((b * height + y) * width + x_) * channels;
                    values.extend_from_slice(&x[pixel + group.start..pixel + group.end]);
                }
                _ => values.resize(values.len() + group.len(), zero),
            }
        }
    }
    values
}

/// A convolution without groups and bias: what precedes a batch norm.
///
/// # Panics
/// When shapes or types do not fit.
#[track_caller]
pub fn conv2d(g: &mut Graph, x: Var, w: Var, window: Window) -> Var {
    g.apply(Conv2d { window, ..Conv2d::default() }, &[x, w])
}

/// A convolution with a bias per output channel.
///
/// # Panics
/// When shapes or types do not fit.
#[track_caller]
pub fn conv2d_bias(g: &mut Graph, x: Var, w: Var, bias: Var, window: Window) -> Var {
    g.apply(Conv2d { window, epilogue: Epilogue::bias(true), ..Conv2d::default() }, &[x, w, bias])
}

/// Cases of the op table: image `[B, H, W, C]`, kernel `[N, kh, kw]`, window, groups.
pub fn cases() -> Vec<Case> {
    let window = |stride, padding, dilation| Window { stride, padding, dilation };
    let all = Epilogue { scale: true, shift: true, residual: true, activation: Activation::Relu };
    let shapes: [([usize; 4], [usize; 3], Window, usize); 16] = [
        ([1, 1, 1, 1], [1, 1, 1], window(1, 0, 1), 1),
        ([2, 5, 7, 4], [8, 1, 1], window(1, 0, 1), 1),
        ([1, 9, 11, 8], [12, 1, 1], window(2, 0, 1), 1),
        ([2, 13, 17, 3], [64, 7, 7], window(2, 3, 1), 1),
        ([1, 10, 10, 16], [20, 3, 3], window(1, 1, 1), 1),
        ([1, 11, 5, 20], [33, 3, 3], window(2, 1, 1), 1),
        ([1, 9, 9, 8], [16, 3, 3], window(1, 2, 2), 1),
        ([2, 7, 7, 12], [8, 3, 3], window(1, 1, 1), 4),
        ([1, 8, 6, 16], [24, 3, 3], window(1, 1, 1), 2),
        ([1, 3, 2, 5], [7, 2, 3], window(3, 2, 1), 1),
        ([1, 1, 33, 130], [129, 1, 1], window(1, 0, 1), 1),
        ([1, 21, 23, 36], [68, 3, 3], window(1, 1, 1), 1),
        ([2, 5, 13, 64], [72, 1, 1], window(1, 0, 1), 1),
        // Few channels: rows of taps shorter and longer than eight elements, lines narrower and wider than a row of taps.
        ([2, 9, 6, 1], [12, 3, 5], window(1, 2, 1), 1),
        ([1, 12, 19, 3], [8, 3, 3], window(2, 1, 1), 1),
        ([2, 5, 3, 7], [68, 3, 7], window(1, 3, 1), 1),
    ];
    let mut cases = Vec::new();
    for (i, (image, kernel, window, groups)) in shapes.into_iter().enumerate() {
        let epilogue = if i % 2 == 0 { Epilogue::default() } else { all };
        let full = case(image, kernel, Conv2d { window, groups, epilogue });
        cases.push(half(&full, kernel[1] * kernel[2] * image[3] / groups));
        cases.push(full);
    }
    cases
}

fn case(image: [usize; 4], [n, kh, kw]: [usize; 3], op: Conv2d) -> Case {
    let inputs = vec![noise(image, 1), noise([n, kh, kw, image[3] / op.groups()], 2)];
    let bare = Conv2d { epilogue: Epilogue::default(), ..op };
    let y = bare.outputs(&inputs.iter().map(Host::ty).collect::<Vec<_>>())[0];
    let k = (kh * kw * image[3]) as f32;
    let inputs = inputs.into_iter().chain(epilogue_inputs(op.epilogue, y.shape.dims())).collect();
    Case::new(op, inputs, Tolerance::of(1e-6 * k.sqrt() + 2e-6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_extent_is_pytorchs() {
        let window = |stride, padding, dilation| Window { stride, padding, dilation };
        assert_eq!(window(2, 3, 1).output(800, 7), Some(400));
        assert_eq!(window(2, 1, 1).output(267, 3), Some(134));
        assert_eq!(window(1, 2, 2).output(25, 3), Some(25));
        assert_eq!(window(1, 0, 1).output(2, 3), None);
    }
}
