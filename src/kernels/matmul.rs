//! Products of matrices stored either way: `y[s, m, n] = Σ_k x[m, k] · w[n, k]` over the s-th part of k.
//!
//! What the gradients of linear layers and of 1×1 convolutions are made of: `d_x = d_y · w` reads w by columns, and
//! `d_w = d_yᵀ · x` reads both by columns and has long sums over few results, which are split to keep all processors busy
//! and added up by a second node, in fixed order.
//!
//! Shapes: x `[m, k]` or, by columns, `[k, m]`; w `[n, k]` or `[k, n]`; y `[splits, m, n]`.

use super::epilogue::Epilogue;
use super::gemm::{self, Layout, Operands, Product};
use super::linear::{dot, half};
use super::reduce;
use crate::gpu::{Capabilities, Dispatch};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use rayon::prelude::*;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Matmul {
    /// How x and w are stored.
    pub layouts: [Layout; 2],
    /// Parts of the sums.
    pub splits: usize,
    /// Element type of the result.
    pub to: DType,
}

impl Matmul {
    pub(crate) fn product(self, inputs: &[TensorType]) -> Product {
        let extents = |i: usize| match (self.layouts[i], inputs[i].shape.dims()) {
            (Layout::Rows, &[outer, k]) => (outer, k),
            (Layout::Columns, &[k, outer]) => (outer, k),
            _ => panic!("matmul: wants two matrices, found {}", ids(inputs)),
        };
        let ((m, k), (n, same)) = (extents(0), extents(1));
        assert_eq!(k, same, "matmul {:?}: sums over {k} and {same} terms: {}", self.layouts, ids(inputs));
        let types = [inputs[0].dtype, inputs[1].dtype, self.to];
        let operands = Operands::Matrices(self.layouts[0], self.layouts[1]);
        Product { m, n, k, groups: 1, splits: self.splits, types, operands, epilogue: Epilogue::default() }
    }
}

/// A matrix in rows of `k`, whatever its layout.
fn in_rows(matrix: &Host, layout: Layout) -> Vec<f32> {
    let x = matrix.to_f32();
    let &[rows, columns] = matrix.shape().dims() else { panic!("matmul: {} is no matrix", matrix.ty()) };
    match layout {
        Layout::Rows => x.into_owned(),
        Layout::Columns => (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect(),
    }
}

impl Op for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        assert!(inputs.len() == 2 && inputs.iter().all(|t| t.dtype.is_float()), "matmul: wants floats x and w, found {}", ids(inputs));
        let product = self.product(inputs);
        vec![TensorType::new([self.splits, product.m, product.n], self.to)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (x, w) = (in_rows(inputs[0], self.layouts[0]), in_rows(inputs[1], self.layouts[1]));
        let product = self.product(&[inputs[0].ty(), inputs[1].ty()]);
        let (n, k, part) = (product.n, product.k, product.split_k());
        let mut y = vec![0.0; outputs[0].shape.len()];
        y.par_chunks_mut(n).enumerate().for_each(|(row, y)| {
            let (split, m) = (row / product.m, row % product.m);
            // The last parts may be left without terms.
            let range = (split * part).min(k)..((split + 1) * part).min(k);
            for (n, y) in y.iter_mut().enumerate() {
                *y = dot(&x[m * k..][range.clone()], &w[n * k..][range.clone()]);
            }
        });
        vec![Host::from_f32(outputs[0], y)]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], device: &Capabilities) -> Vec<Dispatch> {
        self.product(inputs).kernels(device)
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        self.product(inputs).operations()
    }
}

/// `Σ_k x[m, k] · w[n, k]` as `[m, n]` in the type `to`; a second node adds the parts where the sums are split.
pub(crate) fn matmul(g: &mut Graph, x: Var, w: Var, layouts: [Layout; 2], to: DType) -> Var {
    let types = g.types(&[x, w]);
    let Product { m, n, k, .. } = Matmul { layouts, splits: 1, to }.product(&types);
    let splits = gemm::splits(m, n, k);
    let parts = g.apply(Matmul { layouts, splits, to: if splits == 1 { to } else { DType::F32 } }, &[x, w]);
    add_parts(g, parts, &[m, n], to)
}

/// The sum of the parts `[splits, ..]` of a product, in the given shape and type.
pub(crate) fn add_parts(g: &mut Graph, parts: Var, shape: &[usize], to: DType) -> Var {
    let len: usize = shape.iter().product();
    let splits = g.shape(parts).len() / len;
    if splits == 1 {
        return g.reshape(parts, shape);
    }
    let rows = g.reshape(parts, [splits, len]);
    let sum = reduce::column_sums(g, rows, to);
    g.reshape(sum, shape)
}

/// Cases of the op table: `[m, k, n]` and splits, in all four layouts.
pub fn cases() -> Vec<Case> {
    let shapes = [
        ([1, 1, 1], 1),
        ([200, 104, 136], 1),
        ([72, 232, 200], 3),
        ([7, 5, 3], 1),
        ([64, 16, 64], 1),
        ([65, 33, 68], 2),
        ([12, 1040, 20], 3),
        ([33, 200, 130], 4),
    ];
    let layouts = [Layout::Rows, Layout::Columns];
    let mut cases = Vec::new();
    for ([m, k, n], splits) in shapes {
        for (x, w) in layouts.into_iter().flat_map(|x| layouts.map(|w| (x, w))) {
            let stored = |layout, outer| if layout == Layout::Rows { [outer, k] } else { [k, outer] };
            let inputs = vec![noise(stored(x, m), 1), noise(stored(w, n), 2)];
            let op = Matmul { layouts: [x, w], splits, to: DType::F32 };
            let case = Case::new(op, inputs, Tolerance::of(1e-6 * (k as f32).sqrt() + 2e-6));
            // Widths of eight, of four, and others.
            if [12, 33, 72, 200].contains(&m) {
                cases.push(Case { tolerance: Tolerance::of(1e-4), ..half(&case, k) });
            }
            cases.push(case);
        }
    }
    cases
}
