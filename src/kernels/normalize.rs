//! The pixels that a network sees, from bytes.
//!
//! The device does not divide: a table, which the host computes, has the value of every byte in every channel, in the element type of
//! the result. So the values are the host's to the bit, whatever the device. Where a quantizer is all that reads the pixels, the table is
//! one of its codes: that appears when graphs are fused.

use super::position::{Padding, Valid, test_sizes};
use crate::gpu::shader::Source;
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

/// Invocations of a workgroup; each takes four pixels.
const GROUP: usize = 32;

/// Rows of a table: those of all bytes, and that of padding.
pub(crate) const ROWS: usize = 257;

/// `(bytes, sizes, table) -> pixels`: bytes i8 `[B, H, W, 3]`, which stand for 0 to 255, the height and width of each picture u32 `[B, 2]`
/// and a table `[257, 3]` of floats or codes i8 to pixels `[B, H, W, 3]` of the table's element type. The last row of the table is what
/// stands behind a picture's size.
#[derive(Clone, Copy, Debug)]
pub struct Normalize;

impl Normalize {
    /// What its second input says.
    fn padding(bytes: TensorType) -> Padding {
        let [_, height, width, _] = bytes.shape.bhwc();
        Padding::Sizes { height, width }
    }

    fn kernel(bytes: TensorType, to: DType, store: Option<Source>) -> Dispatch {
        let ([_, height, width, _], n) = (bytes.shape.bhwc(), bytes.shape.len());
        let dispatch = Dispatch::new(wgsl!("normalize/normalize.wgsl"), 3).constant("GROUP", GROUP).part(Self::padding(bytes).part());
        let dispatch = match store {
            None => dispatch.element("element_y", DType::U32).part(wgsl!("normalize/table_codes.wgsl")),
            Some(store) => dispatch.element("element_y", to).part(wgsl!("normalize/table_floats.wgsl")).part(store),
        };
        dispatch.params(Words::of([n, n.div_ceil(4), height, width])).over_items(n.div_ceil(12), GROUP)
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
            && table.dtype != DType::U32
            && table.shape.dims() == [ROWS, 3];
        assert!(
            fits,
            "normalize: wants bytes i8[B, H, W, 3], sizes u32[B, 2] and a table of floats or codes [{ROWS}, 3], found {}",
            ids(inputs)
        );
        vec![bytes.with_dtype(table.dtype)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let [bytes, sizes, table] = inputs else { unreachable!("outputs has checked") };
        let ([_, height, width, _], padding) = (bytes.shape().bhwc(), Self::padding(bytes.ty()));
        let place = |(i, &byte): (usize, &i8)| {
            let (pixel, channel) = (i / 3, i % 3);
            let is_valid = padding.valid(sizes, pixel / (height * width), pixel / width % height, pixel % width) != 0;
            3 * if is_valid { usize::from(byte as u8) } else { ROWS - 1 } + channel
        };
        let places = bytes.as_i8().iter().enumerate().map(place);
        if table.dtype() == DType::I8 {
            return vec![Host::i8(outputs[0].shape.dims(), places.map(|i| table.as_i8()[i]).collect())];
        }
        let table = table.to_f32();
        vec![Host::from_f32(outputs[0], places.map(|i| table[i]).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let to = outputs[0].dtype;
        if to == DType::I8 {
            return vec![Self::kernel(inputs[0], to, None)];
        }
        let four = inputs[0].shape.len().is_multiple_of(4).then_some(wgsl!("normalize/write_vec4.wgsl"));
        let stores = four.into_iter().chain([wgsl!("normalize/write_scalar.wgsl")]);
        stores.map(|store| Self::kernel(inputs[0], to, Some(store))).collect()
    }
}

/// The pixels of bytes i8 `[B, H, W, 3]` by a table `[257, 3]`, whose last row stands behind the sizes u32 `[B, 2]`; and where pictures are.
#[track_caller]
pub fn normalize(g: &mut Graph, bytes: Var, sizes: Var, table: Var) -> (Var, Valid) {
    let [_, height, width, _] = g.shape(bytes).bhwc();
    (g.apply(Normalize, &[bytes, sizes, table]), Valid::sizes(sizes, height, width))
}

/// Cases of the op table: widths that four divides and others, a pixel, and pictures smaller than the batch.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // The last one has more than 65,535 workgroups in a line.
    for (i, [b, h, w]) in [[1, 1, 1], [1, 4, 4], [2, 5, 7], [3, 9, 4], [4, 3, 13], [1, 31, 33], [1, 2898, 2897]].into_iter().enumerate() {
        let bytes = noise([b, h, w, 3], i as u64).to_f32().iter().map(|v| (v * 128.0).floor() as i8).collect();
        let inputs = vec![Host::i8([b, h, w, 3], bytes), test_sizes(b, h, w), noise([ROWS, 3], 9)];
        let codes = noise([ROWS, 3], 10).to_f32().iter().map(|v| (v * 128.0).floor() as i8).collect();
        cases.push(Case::new(Normalize, [&inputs[..2], &[Host::i8([ROWS, 3], codes)]].concat(), Tolerance::EXACT));
        let case = Case::new(Normalize, inputs, Tolerance::EXACT);
        if i < 6 {
            cases.push(case.in_f16(Tolerance::EXACT));
            cases.push(case);
        }
    }
    cases
}
