//! The gradients of products of codes: by convention with respect to the values that the codes stand for.
//!
//! `d_x = d_y · ŵ` with the weights' values ŵ, by the kernels for floats, and `d_w = alpha_x · d_yᵀ · (x_code − z0)`, a GEMM
//! that reads the codes: `(d_y, x i8, x_state) -> f32[splits, N, ..]` in parts that a second node adds up.
//! Saved for backward are codes, a byte each.

use super::{Arithmetic, PLAIN, test_codes, test_state};
use crate::gpu::shader::Source;
use crate::gpu::{Capabilities, Dispatch};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::kernels::conv::{Conv2d, Window};
use crate::kernels::conv_gradient::ConvWeightGradient;
use crate::kernels::gemm::{self, Layout, Operands, Product, TILES};
use crate::kernels::matmul::{Matmul, add_parts};
use crate::kernels::quantize::dequantize;
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

/// `d_w` of a linear layer, of d_y `[M, N]` and x `[M, K]`, or of a convolution, of d_y `[B, H', W', N]` and x `[B, H, W, C]`.
#[derive(Clone, Copy, Debug)]
pub struct IntegerWeightGradient {
    /// How the window of a convolution moves, and the extents of its kernel.
    pub window: Option<(Window, [usize; 2])>,
    /// Parts of the sums.
    pub splits: usize,
}

impl IntegerWeightGradient {
    /// The same gradient of floats: its geometry, and the twin.
    fn of_floats(self) -> Box<dyn WeightGradient> {
        let splits = self.splits;
        match self.window {
            None => Box::new(Matmul { layouts: [Layout::Columns, Layout::Columns], splits, to: DType::F32 }),
            Some((window, kernel)) => Box::new(ConvWeightGradient { window, kernel, splits }),
        }
    }

    fn tiled(product: &Product, (tile, each): (gemm::Tile, usize)) -> Dispatch {
        let dispatch = Dispatch::new(wgsl!("gemm/tiled.wgsl"), 3)
            .constant("TILE_M", tile.m)
            .constant("TILE_N", tile.n)
            .constant("TILE_K", gemm::TILE_K)
            .constant("ROWS", each)
            .constant("COLUMNS", each)
            .element("element_x", product.types[0])
            .part(product.pieces().0)
            .part(codes_piece(product));
        Self::surround(product, dispatch, tile)
    }

    /// The kernels for cooperative matrices, which take d_y in f16 and the exact differences of the codes.
    fn matrix(product: &Product, device: &Capabilities) -> Vec<Dispatch> {
        if product.types[0] != DType::F16 {
            return Vec::new();
        }
        let raw = [wgsl!("gemm/raw_x_halves.wgsl"), wgsl!("integer/raw_w_differences.wgsl")];
        gemm::matrix::variants(product, device, raw, |product, dispatch, tile| Self::surround(product, dispatch.bind([0, 1, 2]), tile))
    }

    /// The pieces of parameters and results, the parameters themselves and the grid.
    fn surround(product: &Product, dispatch: Dispatch, tile: gemm::Tile) -> Dispatch {
        let params = match product.operands {
            Operands::Unfolded(_) => wgsl!("gemm/params_unfolded.wgsl"),
            _ => wgsl!("gemm/params_rows.wgsl"),
        };
        let four = product.n.is_multiple_of(4);
        let y = if four { wgsl!("integer/y_gradient.wgsl") } else { wgsl!("integer/y_gradient_scalar.wgsl") };
        dispatch.part(params).part(y).params(product.params(tile)).over_groups(product.tiles(tile))
    }
}

/// The piece that loads codes, four at a time where they are aligned.
fn codes_piece(product: &Product) -> Source {
    match product.operands {
        Operands::Unfolded(w) if w.channels.is_multiple_of(4) => wgsl!("integer/w_windows_words.wgsl"),
        Operands::Unfolded(_) => wgsl!("integer/w_windows_bytes.wgsl"),
        _ if product.n.is_multiple_of(4) => wgsl!("integer/w_columns_words.wgsl"),
        _ => wgsl!("integer/w_columns_bytes.wgsl"),
    }
}

/// A gradient of weights on floats, whose geometry that on codes shares.
trait WeightGradient: Op {
    fn geometry(&self, inputs: &[TensorType]) -> Product;
}

impl WeightGradient for Matmul {
    fn geometry(&self, inputs: &[TensorType]) -> Product {
        self.product(inputs)
    }
}

impl WeightGradient for ConvWeightGradient {
    fn geometry(&self, inputs: &[TensorType]) -> Product {
        self.product(inputs)
    }
}

impl Op for IntegerWeightGradient {
    fn name(&self) -> &'static str {
        "integer_weight_gradient"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [d_y, x, state] = inputs else { panic!("integer_weight_gradient: wants d_y, x and its state, found {}", ids(inputs)) };
        let fits = d_y.dtype.is_float() && x.dtype == DType::I8 && *state == TensorType::f32([1, 4]);
        assert!(fits, "integer_weight_gradient: wants floats d_y, codes x and f32[1, 4], found {}", ids(inputs));
        self.of_floats().outputs(&[*d_y, x.with_dtype(DType::F32)])
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let state = inputs[2].to_f32();
        let x = inputs[1].as_i8().iter().map(|&code| f32::from(code) - state[3]).collect();
        let x = Host::f32(inputs[1].shape().dims(), x);
        let sums = self.of_floats().reference(&[inputs[0], &x], outputs).remove(0);
        vec![Host::from_f32(outputs[0], sums.to_f32().iter().map(|s| state[0] * s).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], device: &Capabilities) -> Vec<Dispatch> {
        let product = self.of_floats().geometry(inputs);
        let order = if product.tiles(TILES[0].0) >= gemm::BUSY { [0, 1] } else { [1, 0] };
        let mut kernels = Self::matrix(&product, device);
        kernels.extend(order.map(|i| Self::tiled(&product, TILES[i])));
        kernels
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        self.of_floats().geometry(inputs).operations()
    }
}

/// `d_w` in the shape of w, f32.
pub(super) fn weight_gradient(g: &mut Graph, d_y: Var, io: &Io, window: Option<(Window, [usize; 2])>) -> Var {
    let (x, w) = (io.inputs[0], io.inputs[1]);
    let one = IntegerWeightGradient { window, splits: 1 };
    let Product { m, n, k, .. } = one.of_floats().geometry(&g.types(&[d_y, x]));
    let op = IntegerWeightGradient { splits: gemm::splits(m, n, k), ..one };
    let parts = g.apply(op, &[d_y, x, io.inputs[Arithmetic::X_STATE]]);
    let shape = g.shape(w);
    add_parts(g, parts, shape.dims(), DType::F32)
}

/// The values of the weights, in the type of d_y.
pub(super) fn weight_values(g: &mut Graph, d_y: Var, io: &Io) -> Var {
    let (w, shape, to) = (io.inputs[1], g.shape(io.inputs[1]), g.ty(d_y).dtype);
    dequantize(g, w, io.inputs[Arithmetic::W_STATE], shape.len() / shape.dims()[0], to)
}

/// Only products as layers make them have gradients: other epilogues appear when a graph is fused, after its backward.
#[track_caller]
pub(super) fn assert_plain(op: &str, arithmetic: Arithmetic) {
    let plain = Arithmetic { epilogue: PLAIN, residual_codes: false, requantize: None, ..arithmetic };
    assert_eq!(arithmetic, plain, "{op}: differentiate the graph before it is fused");
}

/// Cases of the op table: image `[B, H, W, C]`, kernel `[N, kh, kw]`, window, parts; of a linear layer without a window.
pub(super) fn cases() -> Vec<Case> {
    let window = |stride, padding| Some(Window { stride, padding, dilation: 1 });
    let shapes = [
        ([1, 1, 1, 1], [1, 1, 1], None, 1),
        ([1, 1, 7, 5], [3, 1, 1], None, 1),
        ([1, 1, 65, 68], [36, 1, 1], None, 2),
        ([1, 1, 700, 33], [130, 1, 1], None, 3),
        ([1, 1, 1, 1], [1, 1, 1], window(1, 0), 1),
        ([2, 5, 7, 4], [8, 1, 1], window(2, 0), 1),
        ([1, 13, 11, 3], [16, 7, 7], window(2, 3), 2),
        ([1, 9, 8, 8], [12, 3, 3], window(1, 1), 3),
        ([2, 7, 6, 12], [5, 3, 3], window(2, 1), 1),
        ([1, 17, 19, 16], [68, 3, 3], window(1, 1), 4),
        ([1, 1, 300, 72], [136, 1, 1], None, 2),
        ([1, 17, 19, 16], [72, 3, 3], window(1, 1), 4),
        ([1, 1, 256, 40], [72, 1, 1], None, 1),
    ];
    let mut cases = Vec::new();
    for (i, (image, [n, kh, kw], window, splits)) in shapes.into_iter().enumerate() {
        let mut x = test_codes(image, 2 + (i % 7) as u32, i as u64);
        let forward = Conv2d { window: window.unwrap_or_default(), ..Conv2d::default() };
        let types = [TensorType::f32(image), TensorType::f32([n, kh, kw, image[3]])];
        let mut d_y = noise(forward.outputs(&types)[0].shape.dims(), 3);
        if window.is_none() {
            (x, d_y) = (x.reshape([image[2], image[3]]), d_y.reshape([image[2], n]));
        }
        let terms = d_y.shape().rows() as f32;
        let op = IntegerWeightGradient { window: window.map(|w| (w, [kh, kw])), splits };
        let case = Case::new(op, vec![d_y, x, test_state(1, 0.05, -3.0, 9)], Tolerance::of(4e-6 * terms.sqrt() + 2e-6));
        let mut half = case.clone();
        half.inputs[0] = half.inputs[0].clone().cast(DType::F16);
        cases.extend([half, case]);
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::integer::{ALL, Bits};

    #[test]
    #[should_panic(expected = "differentiate the graph before it is fused")]
    fn a_fused_product_has_no_gradient() {
        assert_plain(
            "a test",
            Arithmetic { bits: Bits { x: 4, w: 4 }, epilogue: ALL, residual_codes: false, to: DType::F32, requantize: None },
        );
    }
}
