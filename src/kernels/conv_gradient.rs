//! Gradients of a convolution as GEMMs on the same tiles, nothing unfolded in memory.
//!
//! - `d_x[b, y, x, c] = Σ_{ky, kx, n} d_y[b, (y + p − ky·d)/s, (x + p − kx·d)/s, n] · w[n, ky, kx, c]`, over those taps whose
//!   quotients are whole and inside.
//! - `d_w[n, ky, kx, c] = Σ_{b, oy, ox} d_y[b, oy, ox, n] · x[b, oy·s − p + ky·d, ox·s − p + kx·d, c]`: long sums over few
//!   results, split into parts that a second node adds up.
//!
//! Shapes: d_y `[B, H', W', N]`, w `[N, kh, kw, C]`, x and d_x `[B, H, W, C]`, d_w `[splits, N, kh·kw·C]`. One group.

use super::conv::{Conv2d, Window};
use super::epilogue::Epilogue;
use super::gemm::{self, Operands, Product, Windows};
use super::matmul::add_parts;
use crate::gpu::{Capabilities, Dispatch};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, Shape, TensorType};

/// `d_x` from d_y and w.
#[derive(Clone, Copy, Debug)]
pub struct ConvImageGradient {
    /// How the window moves.
    pub window: Window,
    /// Height and width of the image.
    pub extent: [usize; 2],
}

/// `d_w` from d_y and x, in parts.
#[derive(Clone, Copy, Debug)]
pub struct ConvWeightGradient {
    /// How the window moves.
    pub window: Window,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Parts of the sums.
    pub splits: usize,
}

fn windows(window: Window, image: [usize; 2], kernel: [usize; 2], d_y: Shape, channels: usize) -> Windows {
    let ([height, width], [kernel_height, kernel_width]) = (image, kernel);
    let [_, out_height, out_width, _] = d_y.bhwc();
    let Window { stride, padding, dilation } = window;
    let fits = window.output(height, kernel_height) == Some(out_height) && window.output(width, kernel_width) == Some(out_width);
    assert!(fits, "conv gradient {window:?}: an image of {image:?} under a kernel of {kernel:?} does not give {d_y}");
    let group_channels = channels;
    Windows { height, width, channels, group_channels, out_height, out_width, kernel_height, kernel_width, stride, padding, dilation }
}

/// Calls `visit(output element, kernel element, image element)` for every product of a convolution's sum, by flat index.
fn visit(
    [b, height, width, channels]: [usize; 4],
    w: [usize; 4],
    d_y: [usize; 4],
    window: Window,
    mut visit: impl FnMut(usize, usize, usize),
) {
    let [n, kh, kw, _] = w;
    let [_, out_height, out_width, _] = d_y;
    let inside = |o: usize, tap: usize, extent: usize| {
        (o * window.stride + tap * window.dilation).checked_sub(window.padding).filter(|&i| i < extent)
    };
    for pixel in 0..b * out_height * out_width {
        let (image, oy, ox) = (pixel / (out_height * out_width), pixel / out_width % out_height, pixel % out_width);
        for tap in 0..kh * kw {
            let (Some(y), Some(x)) = (inside(oy, tap / kw, height), inside(ox, tap % kw, width)) else { continue };
            for output in 0..n {
                for c in 0..channels {
                    let from = ((image * height + y) * width + x) * channels + c;
                    visit(pixel * n + output, (output * kh * kw + tap) * channels + c, from);
                }
            }
        }
    }
}

impl ConvImageGradient {
    fn product(self, inputs: &[TensorType]) -> Product {
        let (d_y, w) = (inputs[0].shape, inputs[1].shape);
        let [b, _, _, outputs] = d_y.bhwc();
        let [n, kh, kw, c] = w.bhwc();
        assert_eq!(n, outputs, "conv gradient: d_y and w disagree: {}", ids(inputs));
        let windows = windows(self.window, self.extent, [kh, kw], d_y, n);
        Product {
            m: b * self.extent[0] * self.extent[1],
            n: c,
            k: kh * kw * n,
            groups: 1,
            splits: 1,
            types: [inputs[0].dtype, inputs[1].dtype, inputs[0].dtype],
            operands: Operands::Spread(windows),
            epilogue: Epilogue::default(),
        }
    }
}

impl Op for ConvImageGradient {
    fn name(&self) -> &'static str {
        "conv_image_gradient"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        assert_eq!(inputs.len(), 2, "conv gradient: wants d_y and w, found {}", ids(inputs));
        let product = self.product(inputs);
        let [b, ..] = inputs[0].shape.bhwc();
        vec![TensorType::new([b, self.extent[0], self.extent[1], product.n], inputs[0].dtype)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (d_y, w) = (inputs[0].to_f32(), inputs[1].to_f32());
        let mut d_x = vec![0.0; outputs[0].shape.len()];
        let shapes = [outputs[0].shape, inputs[1].shape(), inputs[0].shape()].map(|s| s.bhwc());
        visit(shapes[0], shapes[1], shapes[2], self.window, |y, k, x| d_x[x] += d_y[y] * w[k]);
        vec![Host::from_f32(outputs[0], d_x)]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], device: &Capabilities) -> Vec<Dispatch> {
        self.product(inputs).kernels(device)
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        // Of the taps only one in stride² exists.
        self.product(inputs).operations() / (self.window.stride * self.window.stride) as u64
    }
}

impl ConvWeightGradient {
    fn product(self, inputs: &[TensorType]) -> Product {
        let [b, height, width, c] = inputs[1].shape.bhwc();
        let [same, out_height, out_width, n] = inputs[0].shape.bhwc();
        assert_eq!(b, same, "conv gradient: d_y and x are of different batches: {}", ids(inputs));
        let windows = windows(self.window, [height, width], self.kernel, inputs[0].shape, c);
        Product {
            m: n,
            n: self.kernel[0] * self.kernel[1] * c,
            k: b * out_height * out_width,
            groups: 1,
            splits: self.splits,
            types: [inputs[0].dtype, inputs[1].dtype, DType::F32],
            operands: Operands::Unfolded(windows),
            epilogue: Epilogue::default(),
        }
    }
}

impl Op for ConvWeightGradient {
    fn name(&self) -> &'static str {
        "conv_weight_gradient"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        assert_eq!(inputs.len(), 2, "conv gradient: wants d_y and x, found {}", ids(inputs));
        let product = self.product(inputs);
        vec![TensorType::f32([self.splits, product.m, product.n])]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (d_y, x) = (inputs[0].to_f32(), inputs[1].to_f32());
        let product = self.product(&[inputs[0].ty(), inputs[1].ty()]);
        let mut d_w = vec![0.0; outputs[0].shape.len()];
        let w = [product.m, self.kernel[0], self.kernel[1], inputs[1].shape().last()];
        let (part, one) = (product.split_k(), product.m * product.n);
        visit(inputs[1].shape().bhwc(), w, inputs[0].shape().bhwc(), self.window, |y, k, from| {
            d_w[y / product.m / part * one + k] += d_y[y] * x[from];
        });
        vec![Host::from_f32(outputs[0], d_w)]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], device: &Capabilities) -> Vec<Dispatch> {
        self.product(inputs).kernels(device)
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        self.product(inputs).operations()
    }
}

/// `d_x` of a convolution, in the type of d_y.
pub(crate) fn image_gradient(g: &mut Graph, d_y: Var, w: Var, window: Window, extent: [usize; 2]) -> Var {
    g.apply(ConvImageGradient { window, extent }, &[d_y, w])
}

/// `d_w` of a convolution, as `[N, kh, kw, C]` in the type `to`.
pub(crate) fn weight_gradient(g: &mut Graph, d_y: Var, x: Var, window: Window, kernel: [usize; 2], to: DType) -> Var {
    let ([b, h, w, n], c) = (g.shape(d_y).bhwc(), g.shape(x).last());
    let [kh, kw] = kernel;
    let splits = gemm::splits(n, kh * kw * c, b * h * w);
    let parts = g.apply(ConvWeightGradient { window, kernel, splits }, &[d_y, x]);
    let d_w = add_parts(g, parts, &[n, kh, kw, c], DType::F32);
    super::unary::cast(g, d_w, to)
}

/// Cases of the op table: image `[B, H, W, C]`, kernel `[N, kh, kw]`, window, parts of d_w.
pub fn cases() -> Vec<Case> {
    let window = |stride, padding, dilation| Window { stride, padding, dilation };
    let shapes: [([usize; 4], [usize; 3], Window, usize); 8] = [
        ([1, 1, 1, 1], [1, 1, 1], window(1, 0, 1), 1),
        ([2, 5, 7, 4], [8, 1, 1], window(2, 0, 1), 1),
        ([1, 13, 11, 3], [16, 7, 7], window(2, 3, 1), 2),
        ([1, 9, 8, 8], [12, 3, 3], window(1, 1, 1), 3),
        ([2, 7, 6, 12], [5, 3, 3], window(2, 1, 1), 2),
        ([1, 9, 9, 4], [8, 3, 3], window(1, 2, 2), 1),
        ([1, 8, 9, 5], [7, 2, 3], window(3, 2, 1), 1),
        ([1, 17, 19, 16], [68, 3, 3], window(1, 1, 1), 5),
    ];
    let mut cases = Vec::new();
    for (image, [n, kh, kw], window, splits) in shapes {
        let [x, w] = [noise(image, 1), noise([n, kh, kw, image[3]], 2)];
        let y = Conv2d { window, ..Conv2d::default() }.outputs(&[x.ty(), w.ty()])[0];
        let d_y = noise(y.shape.dims(), 3);
        let of_image = ConvImageGradient { window, extent: [image[1], image[2]] };
        let of_weight = ConvWeightGradient { window, kernel: [kh, kw], splits };
        let terms = [kh * kw * n, y.shape.rows()].map(|k| Tolerance::of(1e-6 * (k as f32).sqrt() + 2e-6));
        let case = Case::new(of_image, vec![d_y.clone(), w], terms[0]);
        cases.push(case.in_f16(Tolerance::of(2e-2)));
        cases.push(case);
        let case = Case::new(of_weight, vec![d_y, x], terms[1]);
        // The sums are f32 whatever the factors are.
        cases.push(case.in_f16(terms[1]));
        cases.push(case);
    }
    cases
}
