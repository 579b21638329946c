//! The gradients of a depthwise convolution: of its input as a gather, of its weights as sums over pixels in two stages.

use super::conv::Window;
use super::depthwise::Depthwise;
use super::rows::{lanes, width_of};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Op, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{Host, TensorType};
use crate::wgsl;

const GROUP: usize = 256;

/// `(d_y [B, H', W', C], w [C, kh, kw, 1]) -> d_x [B, H, W, C]`.
#[derive(Clone, Copy, Debug)]
pub struct DepthwiseInputGradient {
    /// How the window of the convolution moves.
    pub window: Window,
    /// Height and width of its input.
    pub size: [usize; 2],
}

/// `(x [B, H, W, C], d_y [B, H', W', C]) -> f32[parts, C · kh · kw]`: sums over parts of the pixels.
#[derive(Clone, Copy, Debug)]
pub struct DepthwiseWeightGradient {
    /// How the window of the convolution moves.
    pub window: Window,
    /// Height and width of its kernel.
    pub kernel: [usize; 2],
}

/// Calls `visit` with the flat indices of output, input and weight of every product of the convolution.
fn products(window: Window, x: TensorType, w: [usize; 2], y: TensorType, mut visit: impl FnMut(usize, usize, usize)) {
    let ([_, height, width, channels], [batch, out_height, out_width, _]) = (x.shape.bhwc(), y.shape.bhwc());
    let inside = |o: usize, tap: usize, extent: usize| {
        (o * window.stride + tap * window.dilation).checked_sub(window.padding).filter(|&i| i < extent)
    };
    for pixel in 0..batch * out_height * out_width {
        let (b, oy, ox) = (pixel / (out_height * out_width), pixel / out_width % out_height, pixel % out_width);
        for tap in 0..w[0] * w[1] {
            let at = inside(oy, tap / w[1], height).zip(inside(ox, tap % w[1], width));
            let Some((iy, ix)) = at else { continue };
            for c in 0..channels {
                visit(pixel * channels + c, ((b * height + iy) * width + ix) * channels + c, c * w[0] * w[1] + tap);
            }
        }
    }
}

/// The sizes that the shaders of both gradients share.
fn geometry(x: TensorType, y: TensorType, window: Window, pieces: usize) -> [usize; 8] {
    let ([_, height, width, _], [_, out_height, out_width, _]) = (x.shape.bhwc(), y.shape.bhwc());
    [height, width, pieces, out_height, out_width, window.stride, window.padding, window.dilation]
}

impl DepthwiseInputGradient {
    fn kernel(self, inputs: &[TensorType], x: TensorType, width: usize) -> Dispatch {
        let [_, kernel_height, kernel_width, _] = inputs[1].shape.bhwc();
        let n = x.shape.len() / width;
        let mut words = vec![n];
        words.extend(geometry(x, inputs[0], self.window, x.shape.last() / width));
        let weights = if width == 4 { wgsl!("depthwise/w_vec4.wgsl") } else { wgsl!("depthwise/w_scalar.wgsl") };
        let dispatch = Dispatch::new(wgsl!("depthwise/d_x.wgsl"), 2)
            .wide("wide_x", x.dtype, width)
            .element("element_w", inputs[1].dtype)
            .constant("GROUP", GROUP)
            .constant("KERNEL_HEIGHT", kernel_height)
            .constant("KERNEL_WIDTH", kernel_width)
            .constant("TAPS", kernel_height * kernel_width)
            .part(weights)
            .params(Words::of(words))
            .over_items(n, GROUP);
        lanes(dispatch, width)
    }
}

impl Op for DepthwiseInputGradient {
    fn name(&self) -> &'static str {
        "depthwise_input_gradient"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [d_y, w] = inputs else { panic!("depthwise_input_gradient: wants d_y and w, found {}", ids(inputs)) };
        let ([b, _, _, c], [height, width]) = (d_y.shape.bhwc(), self.size);
        let x = TensorType::new([b, height, width, c], d_y.dtype);
        let forward = Depthwise { window: self.window, ..Depthwise::default() };
        assert!(forward.outputs(&[x, *w])[0] == *d_y, "{self:?}: d_y and w do not fit: {}", ids(inputs));
        vec![x]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (d_y, w) = (inputs[0].to_f32(), inputs[1].to_f32());
        let [_, kh, kw, _] = inputs[1].shape().bhwc();
        let mut d_x = vec![0.0; outputs[0].shape.len()];
        products(self.window, outputs[0], [kh, kw], inputs[0].ty(), |o, i, t| d_x[i] += d_y[o] * w[t]);
        vec![Host::from_f32(outputs[0], d_x)]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        width_of(outputs[0].shape.last()).map(|width| self.kernel(inputs, outputs[0], width)).collect()
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        2 * (inputs[0].shape.len() * inputs[1].shape.len() / inputs[0].shape.last()) as u64
    }
}

impl DepthwiseWeightGradient {
    /// Workgroups along the pixels, each of which sums its share; their sums are added by one more node.
    fn parts(d_y: TensorType) -> usize {
        d_y.shape.rows().div_ceil(256).min(256)
    }
}

impl Op for DepthwiseWeightGradient {
    fn name(&self) -> &'static str {
        "depthwise_weight_gradient"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [x, d_y] = inputs else { panic!("depthwise_weight_gradient: wants x and d_y, found {}", ids(inputs)) };
        let ([b, height, width, c], [kh, kw]) = (x.shape.bhwc(), self.kernel);
        let size = self.window.output(height, kh).zip(self.window.output(width, kw));
        let fits = x.dtype.is_float() && size.is_some_and(|(h, w)| *d_y == TensorType::new([b, h, w, c], x.dtype));
        assert!(fits, "{self:?}: x and d_y do not fit: {}", ids(inputs));
        vec![TensorType::f32([Self::parts(*d_y), c * kh * kw])]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (x, d_y) = (inputs[0].to_f32(), inputs[1].to_f32());
        let (pixels, channels) = (inputs[1].shape().rows(), inputs[1].shape().last());
        let chunk = pixels.div_ceil(outputs[0].shape.rows());
        let mut d_w = vec![0f64; outputs[0].shape.len()];
        products(self.window, inputs[0].ty(), self.kernel, inputs[1].ty(), |o, i, t| {
            d_w[o / channels / chunk * outputs[0].shape.last() + t] += f64::from(d_y[o]) * f64::from(x[i]);
        });
        vec![Host::from_f32(outputs[0], d_w.iter().map(|&v| v as f32).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let (x, d_y, [kernel_height, kernel_width]) = (inputs[0], inputs[1], self.kernel);
        let (pixels, channels) = (d_y.shape.rows(), d_y.shape.last());
        let (columns, parts) = (channels.next_power_of_two().min(32), Self::parts(d_y));
        let mut words = vec![pixels, pixels.div_ceil(parts)];
        words.extend(geometry(x, d_y, self.window, channels));
        let kernel = Dispatch::new(wgsl!("depthwise/d_w.wgsl"), 2)
            .element("element", x.dtype)
            .constant("GROUP", GROUP)
            .constant("COLUMNS", columns)
            .constant("KERNEL_HEIGHT", kernel_height)
            .constant("KERNEL_WIDTH", kernel_width)
            .params(Words::of(words))
            .over_grid([channels.div_ceil(columns), parts, 1]);
        vec![kernel]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        2 * (inputs[1].shape.len() * self.kernel[0] * self.kernel[1]) as u64
    }
}

/// Cases of the op table for a forward convolution of x with a kernel.
pub(super) fn cases(x: &Host, [kh, kw]: [usize; 2], window: Window) -> Vec<Case> {
    let [_, height, width, c] = x.shape().bhwc();
    let w = noise([c, kh, kw, 1], 8);
    let y = Depthwise { window, ..Depthwise::default() }.outputs(&[x.ty(), w.ty()])[0];
    let d_y = noise(y.shape.dims(), 9);
    let tolerance = Tolerance { absolute: 1e-4, relative: 1e-5 };
    let d_x = Case::new(DepthwiseInputGradient { window, size: [height, width] }, vec![d_y.clone(), w], tolerance);
    let d_w = Case::new(DepthwiseWeightGradient { window, kernel: [kh, kw] }, vec![x.clone(), d_y], tolerance);
    vec![d_x.in_f16(Tolerance::of(4e-3)), d_w.in_f16(tolerance), d_x, d_w]
}
