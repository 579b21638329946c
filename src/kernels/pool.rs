//! Max pooling, channels last: PyTorch's `nn.MaxPool2d` without dilation and with `ceil_mode=False`.
//!
//! `y[b, oy, ox, c] = max x[b, oy·s − p + ky, ox·s − p + kx, c]` over the taps inside the image.
//! Shapes: x `[B, H, W, C]`, y `[B, H', W', C]`. Saved for backward: x and y.
//!
//! Codes of one step size are in the order of what they stand for: [`CodePool`] gives the codes of the largest values, a byte each.

use super::conv::Window;
use super::rows::{floats, width_of};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, Shape, TensorType};
use crate::wgsl;

const GROUP: usize = 256;

/// The largest value of each square window.
#[derive(Clone, Copy, Debug)]
pub struct MaxPool {
    /// Height and width of a window.
    pub kernel: usize,
    /// Pixels between neighbouring windows.
    pub stride: usize,
    /// How far windows reach over the image's border; at most half a window, so that none lies outside.
    pub padding: usize,
}

impl MaxPool {
    /// Input height and width, output height and width; `None` when no window fits.
    fn extents(self, x: TensorType) -> Option<[usize; 4]> {
        let [_, height, width, _] = x.shape.bhwc();
        let window = Window { stride: self.stride, padding: self.padding, dilation: 1 };
        Some([height, width, window.output(height, self.kernel)?, window.output(width, self.kernel)?])
    }

    fn sizes(self, x: TensorType, y: TensorType, width: usize) -> [usize; 9] {
        let ([_, height, x_width, channels], [_, out_height, out_width, _]) = (x.shape.bhwc(), y.shape.bhwc());
        let n = y.shape.len() / width;
        [n, height, x_width, channels / width, out_height, out_width, self.kernel, self.stride, self.padding]
    }

    /// The kernel without what stores its results.
    pub(super) fn kernel(self, x: TensorType, y: TensorType, width: usize) -> Dispatch {
        Dispatch::new(wgsl!("max_pool.wgsl"), 1)
            .wide("wide_x", x.dtype, width)
            .wide("wide", DType::F32, width)
            .constant("GROUP", GROUP)
            .params(Words::of(self.sizes(x, y, width)))
            .over_items(y.shape.len() / width, GROUP)
    }

    /// The pixels of input that an output coordinate covers along a dimension of the given extent.
    fn taps(self, o: usize, extent: usize) -> std::ops::Range<usize> {
        let start = (o * self.stride).saturating_sub(self.padding);
        start..(o * self.stride + self.kernel - self.padding).min(extent)
    }
}

impl Op for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [x] = inputs else { panic!("max_pool: wants one input, found {}", inputs.len()) };
        let [b, _, _, c] = x.shape.bhwc();
        let sane = x.dtype.is_float() && self.stride > 0 && self.kernel > 0 && 2 * self.padding <= self.kernel;
        let extents = self.extents(*x).filter(|_| sane);
        let Some([_, _, h, w]) = extents else { panic!("{self:?}: no window fits {x}, or the padding is more than half a window") };
        vec![TensorType::new([b, h, w, c], x.dtype)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let x = inputs[0].to_f32();
        let [_, height, width, channels] = inputs[0].shape().bhwc();
        let [batch, out_height, out_width, _] = outputs[0].shape.bhwc();
        let mut y = Vec::with_capacity(outputs[0].shape.len());
        for pixel in 0..batch * out_height * out_width {
            let (b, oy, ox) = (pixel / (out_height * out_width), pixel / out_width % out_height, pixel % out_width);
            for c in 0..channels {
                let at = |iy: usize, ix: usize| x[((b * height + iy) * width + ix) * channels + c];
                let taps = self.taps(oy, height).flat_map(|iy| self.taps(ox, width).map(move |ix| (iy, ix)));
                y.push(taps.map(|(iy, ix)| at(iy, ix)).fold(f32::MIN, f32::max));
            }
        }
        vec![Host::from_f32(outputs[0], y)]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        width_of(inputs[0].shape.last())
            .map(|width| floats(self.kernel(inputs[0], outputs[0], width), 2, outputs[0].dtype, width))
            .collect()
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], _wanted: &[bool]) -> Vec<Option<Var>> {
        let backward = MaxPoolBackward { forward: *self };
        vec![d_outputs[0].map(|d_y| graph.apply(backward, &[io.inputs[0], io.outputs[0], d_y]))]
    }

    fn operations(&self, _inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        (outputs[0].shape.len() * self.kernel * self.kernel) as u64
    }
}

/// `(x, y, d_y) -> d_x`: the gradient of each window goes to the first of its largest pixels.
#[derive(Clone, Copy, Debug)]
pub struct MaxPoolBackward {
    /// The pool whose gradient it is.
    pub forward: MaxPool,
}

impl Op for MaxPoolBackward {
    fn name(&self) -> &'static str {
        "max_pool_backward"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let fits = inputs.len() == 3 && self.forward.outputs(&inputs[..1])[0] == inputs[1] && inputs[2] == inputs[1];
        assert!(fits, "max_pool_backward: wants x, y and d_y of {:?}, found {}", self.forward, ids(inputs));
        vec![inputs[0]]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (x, d_y) = (inputs[0].to_f32(), inputs[2].to_f32());
        let [_, height, width, channels] = inputs[0].shape().bhwc();
        let [_, out_height, out_width, _] = inputs[1].shape().bhwc();
        let mut d_x = vec![0.0; x.len()];
        for (o, d_y) in d_y.iter().enumerate() {
            let (c, pixel) = (o % channels, o / channels);
            let (b, oy, ox) = (pixel / (out_height * out_width), pixel / out_width % out_height, pixel % out_width);
            let at = |(iy, ix): (usize, usize)| ((b * height + iy) * width + ix) * channels + c;
            let taps = self.forward.taps(oy, height).flat_map(|iy| self.forward.taps(ox, width).map(move |ix| (iy, ix)));
            let first = taps.map(at).reduce(|best, i| if x[i] > x[best] { i } else { best });
            d_x[first.expect("no window is empty")] += d_y;
        }
        vec![Host::from_f32(outputs[0], d_x)]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let (x, y) = (inputs[0], inputs[1]);
        let mut sizes = self.forward.sizes(x, y, 1);
        sizes[0] = x.shape.len();
        let kernel = Dispatch::new(wgsl!("max_pool_backward.wgsl"), 3)
            .element("element", x.dtype)
            .constant("GROUP", GROUP)
            .params(Words::of(sizes))
            .over_items(x.shape.len(), GROUP);
        vec![kernel]
    }

    fn operations(&self, _inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        outputs[0].shape.len() as u64
    }
}

/// Codes i8 `[B, H, W, C]`, C a multiple of 4, to the largest code i8 `[B, H', W', C]` of each window. It appears when graphs are fused.
#[derive(Clone, Copy, Debug)]
pub struct CodePool {
    /// The pool of the values that the codes stand for.
    pub of: MaxPool,
}

impl CodePool {
    /// Whether there is a kernel for codes of a shape: it reads and writes words.
    pub(crate) fn suits(of: Shape) -> bool {
        of.last().is_multiple_of(4)
    }

    /// The kernel in which an invocation has so many codes: one word's, or four words'.
    fn kernel(self, x: TensorType, y: TensorType, codes: usize) -> Dispatch {
        let [n, height, width, pieces, out_height, out_width, kernel, stride, padding] = self.of.sizes(x, y, codes);
        Dispatch::new(wgsl!("code_pool.wgsl"), 1)
            .wide("wide", DType::U32, codes / 4)
            .constant("GROUP", GROUP)
            .constant("KERNEL", kernel)
            .constant("STRIDE", stride)
            .constant("PADDING", padding)
            .params(Words::of([n, height, width, pieces, out_height, out_width]))
            .over_items(n, GROUP)
    }
}

impl Op for CodePool {
    fn name(&self) -> &'static str {
        "code_pool"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let fits = matches!(inputs, [x] if x.dtype == DType::I8 && Self::suits(x.shape));
        assert!(fits, "code_pool: wants words of codes i8, found {}", ids(inputs));
        let y = self.of.outputs(&[inputs[0].with_dtype(DType::F32)])[0];
        vec![y.with_dtype(DType::I8)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let codes = inputs[0].as_i8().iter().map(|&code| f32::from(code)).collect();
        let codes = Host::f32(inputs[0].shape().dims(), codes);
        let y = self.of.reference(&[&codes], &[outputs[0].with_dtype(DType::F32)]).remove(0);
        vec![Host::i8(y.shape().dims(), y.to_f32().iter().map(|&code| code as i8).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let channels = inputs[0].shape.last();
        let widths = [16, 4].into_iter().filter(|&codes| channels.is_multiple_of(codes));
        widths.map(|codes| self.kernel(inputs[0], outputs[0], codes)).collect()
    }

    fn operations(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        self.of.operations(inputs, outputs)
    }
}

/// The largest value of each window of `kernel × kernel` pixels.
///
/// # Panics
/// When no window fits, or `padding` is more than half of `kernel`.
#[track_caller]
pub fn max_pool(g: &mut Graph, x: Var, kernel: usize, stride: usize, padding: usize) -> Var {
    g.apply(MaxPool { kernel, stride, padding }, &[x])
}

/// Cases of the op table: image, then kernel, stride and padding.
pub fn cases() -> Vec<Case> {
    let shapes = [
        ([1, 1, 1, 1], [1, 1, 0]),
        ([1, 1, 1, 4], [3, 2, 1]),
        ([2, 13, 9, 5], [3, 2, 1]),
        ([1, 8, 6, 64], [3, 2, 1]),
        ([1, 7, 7, 3], [2, 2, 0]),
        ([3, 5, 11, 12], [5, 1, 2]),
        ([1, 6, 5, 8], [2, 3, 1]),
        ([1, 17, 1031, 4], [4, 3, 2]),
        ([2, 3, 1, 1], [3, 1, 1]),
    ];
    let mut cases = Vec::new();
    for (i, (image, [kernel, stride, padding])) in shapes.into_iter().enumerate() {
        // Below zero everywhere: a padding that counts as 0 would win.
        let x = noise(image, i as u64).to_f32().iter().map(|v| v - 1.0).collect();
        let op = MaxPool { kernel, stride, padding };
        let case = Case::new(op, vec![Host::f32(image, x)], Tolerance::EXACT);
        for forward in [case.in_f16(Tolerance::EXACT), case] {
            cases.push(backward_case(op, &forward));
            cases.push(forward);
        }
        cases.extend([4, 48].map(|channels| code_case(op, [image[0], image[1], image[2], channels], i as u64)));
    }
    // More than 65,535 workgroups.
    let large = vec![noise([1, 1, 65_535 * 256 + 9, 1], 3)];
    cases.push(Case::new(MaxPool { kernel: 1, stride: 1, padding: 0 }, large, Tolerance::EXACT));
    cases
}

/// Codes of any value. Of odd images all are negative: a padding that counts as 0 would win.
fn code_case(of: MaxPool, image: [usize; 4], seed: u64) -> Case {
    let code = |v: &f32| if seed % 2 == 1 { (v * 64.0 - 64.0).floor() as i8 } else { (v * 128.0).floor() as i8 };
    let codes = noise(image, seed).to_f32().iter().map(code).collect();
    Case::new(CodePool { of }, vec![Host::i8(image, codes)], Tolerance::EXACT)
}

/// The backward of a forward case on few distinct values, so that windows have several largest pixels.
fn backward_case(forward: MaxPool, case: &Case) -> Case {
    let x = &case.inputs[0];
    let steps = x.to_f32().iter().map(|v| (v * 4.0).round()).collect();
    let x = Host::from_f32(x.ty(), steps);
    let y = forward.reference(&[&x], &forward.outputs(&[x.ty()])).remove(0);
    let d_y = noise(y.shape().dims(), 9).cast(x.dtype());
    let tolerance = if x.dtype() == DType::F16 { 2e-3 } else { 1e-6 };
    Case::new(MaxPoolBackward { forward }, vec![x, y, d_y], Tolerance::of(tolerance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "more than half a window")]
    fn a_window_outside_the_image_is_refused() {
        MaxPool { kernel: 2, stride: 1, padding: 2 }.outputs(&[TensorType::f32([1, 4, 4, 1])]);
    }

    #[test]
    #[should_panic(expected = "wants words of codes")]
    fn codes_that_are_no_words_are_refused() {
        let of = MaxPool { kernel: 3, stride: 2, padding: 1 };
        CodePool { of }.outputs(&[TensorType::new([1, 4, 4, 6], DType::I8)]);
    }
}
