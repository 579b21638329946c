//! The pixels that a network sees, from bytes.
//!
//! The device does not divide: a table, which the host computes, has the value of every byte in every channel, in the element type of
//! the result. So the values are the host's to the bit, whatever the device.

use super::position::{Padding, Valid, test_sizes};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

/// Invocations of a workgroup; each takes four bytes.
const GROUP: usize = 64;

/// `(bytes, sizes, table) -> pixels`: bytes i8 `[B, H, W, 3]`, which stand for 0 to 255, the height and width of each picture u32 `[B, 2]`
/// and a table `[256, 3]` to pixels `[B, H, W, 3]` of the table's element type, zero behind a picture's size.
#[derive(Clone, Copy, Debug)]
pub struct Normalize;

impl Normalize {
    /// What its second input says.
    fn padding(bytes: TensorType) -> Padding {
        let [_, height, width, _] = bytes.shape.bhwc();
        Padding::Sizes { height, width }
    }

    fn kernel(bytes: TensorType, to: DType, four: bool) -> Dispatch {
        let ([_, height, width, _], n) = (bytes.shape.bhwc(), bytes.shape.len());
        Dispatch::new(wgsl!("normalize/normalize.wgsl"), 3)
            .element("element_y", to)
            .constant("GROUP", GROUP)
            .part(Self::padding(bytes).part())
            .part(if four { wgsl!("normalize/write_vec4.wgsl") } else { wgsl!("normalize/write_scalar.wgsl") })
            .params(Words::of([n, n.div_ceil(4), height, width]))
            .over_items(n.div_ceil(4), GROUP)
    }
}

impl Op for Normalize {
    fn name(&self) -> &'static str {
        "normalize"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [bytes, sizes, table] = inputs else { panic!("normalize: wants bytes, sizes and a table, found {}", ids(inputs)) };
        let [batch, _, _, channels] = bytes.shape.bhwc();
        let fits = bytes.dtype == DType::I8
            && channels == 3
            && *sizes == TensorType::new([batch, 2], DType::U32)
            && table.dtype.is_float()
            && table.shape.dims() == [256, 3];
        assert!(fits, "normalize: wants bytes i8[B, H, W, 3], sizes u32[B, 2] and a table of floats [256, 3], found {}", ids(inputs));
        vec![bytes.with_dtype(table.dtype)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let [bytes, sizes, table] = inputs else { unreachable!("outputs has checked") };
        let ([_, height, width, _], padding, table) = (bytes.shape().bhwc(), Self::padding(bytes.ty()), table.to_f32());
        let value = |(i, &byte): (usize, &i8)| {
            let (pixel, channel) = (i / 3, i % 3);
            let is_valid = padding.valid(sizes, pixel / (height * width), pixel / width % height, pixel % width) != 0;
            if is_valid { table[usize::from(byte as u8) * 3 + channel] } else { 0.0 }
        };
        vec![Host::from_f32(outputs[0], bytes.as_i8().iter().enumerate().map(value).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let four = inputs[0].shape.len().is_multiple_of(4);
        four.then_some(true).into_iter().chain([false]).map(|four| Self::kernel(inputs[0], outputs[0].dtype, four)).collect()
    }
}

/// The pixels of bytes i8 `[B, H, W, 3]` by a table `[256, 3]`, zero behind the sizes u32 `[B, 2]`; and where pictures are.
#[track_caller]
pub fn normalize(g: &mut Graph, bytes: Var, sizes: Var, table: Var) -> (Var, Valid) {
    let [_, height, width, _] = g.shape(bytes).bhwc();
    (g.apply(Normalize, &[bytes, sizes, table]), Valid::sizes(sizes, height, width))
}

/// Cases of the op table: widths that four divides and others, a pixel, and pictures smaller than the batch.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // The last one has more than 65,535 workgroups in a line.
    for (i, [b, h, w]) in [[1, 1, 1], [1, 4, 4], [2, 5, 7], [3, 9, 4], [4, 3, 13], [1, 31, 33], [1, 2366, 2365]].into_iter().enumerate() {
        let bytes = noise([b, h, w, 3], i as u64).to_f32().iter().map(|v| (v * 128.0).floor() as i8).collect();
        let inputs = vec![Host::i8([b, h, w, 3], bytes), test_sizes(b, h, w), noise([256, 3], 9)];
        let case = Case::new(Normalize, inputs, Tolerance::EXACT);
        cases.extend((i < 6).then(|| case.in_f16(Tolerance::EXACT)));
        cases.push(case);
    }
    cases
}
