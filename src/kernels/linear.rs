//! Linear layers: `y[.., n] = epilogue(Σ_k x[.., k] · w[n, k])`, PyTorch's `nn.Linear`.
//!
//! Shapes: x `[.., K]`, w `[N, K]`, then the epilogue's inputs; y `[.., N]`.

use super::epilogue::{Activation, Epilogue};
use super::gemm::{self, Layout, Operands, Product};
use super::matmul::matmul;
use super::reduce;
use crate::gpu::{Capabilities, Dispatch};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use rayon::prelude::*;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linear {
    /// What happens to each sum.
    pub epilogue: Epilogue,
    /// Element type of the result when it is not that of x.
    pub to: Option<DType>,
}

impl Linear {
    pub(crate) fn product(self, inputs: &[TensorType], outputs: &[TensorType]) -> Product {
        let (x, w) = (inputs[0].shape, inputs[1].shape);
        Product {
            m: x.rows(),
            n: w.dims()[0],
            k: x.last(),
            groups: 1,
            splits: 1,
            types: gemm::types(inputs, outputs),
            operands: Operands::Matrices(Layout::Rows, Layout::Rows),
            epilogue: self.epilogue,
        }
    }
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        assert!(inputs.len() >= 2, "linear: wants x and w, found {}", ids(inputs));
        let (x, w) = (inputs[0], inputs[1]);
        let fits = w.shape.rank() == 2 && w.shape.last() == x.shape.last() && x.dtype.is_float() && w.dtype.is_float();
        assert!(fits, "linear: wants floats x [.., K] and w [N, K], found {}", ids(inputs));
        let y = TensorType { shape: x.shape.with_last(w.shape.dims()[0]), dtype: self.to.unwrap_or(x.dtype) };
        self.epilogue.check("linear", 2, inputs, y);
        vec![y]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (x, w) = (inputs[0].to_f32(), inputs[1].to_f32());
        let (k, n) = (inputs[0].shape().last(), outputs[0].shape.last());
        let mut y = vec![0.0; outputs[0].shape.len()];
        y.par_chunks_mut(n).zip(x.par_chunks(k)).for_each(|(y, x)| {
            for (y, w) in y.iter_mut().zip(w.chunks(k)) {
                *y = dot(x, w);
            }
        });
        self.epilogue.reference(2, inputs, &mut y, n);
        vec![Host::from_f32(outputs[0], y)]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], device: &Capabilities) -> Vec<Dispatch> {
        self.product(inputs, outputs).kernels(device)
    }

    fn gradient(&self, g: &mut Graph, io: &Io, d_outputs: &[Option<Var>], wanted: &[bool]) -> Vec<Option<Var>> {
        assert_eq!(self.epilogue, Epilogue::bias(self.epilogue.shift), "linear: differentiate before fusing");
        let Some(d_y) = d_outputs[0] else { return vec![None; wanted.len()] };
        let (x, w) = (io.inputs[0], io.inputs[1]);
        let (x_type, w_type) = (g.ty(x), g.ty(w));
        let (rows, n, k) = (x_type.shape.rows(), w_type.shape.dims()[0], x_type.shape.last());
        let d_y = g.reshape(d_y, [rows, n]);
        let d_x = wanted[0].then(|| {
            let d_x = matmul(g, d_y, w, [Layout::Rows, Layout::Columns], x_type.dtype);
            g.reshape(d_x, x_type.shape.dims())
        });
        let d_w = wanted[1].then(|| {
            let x = g.reshape(x, [rows, k]);
            matmul(g, d_y, x, [Layout::Columns, Layout::Columns], DType::F32)
        });
        let d_bias = wanted.get(2).map(|&wanted| wanted.then(|| reduce::column_sums(g, d_y, DType::F32)));
        [d_x, d_w].into_iter().chain(d_bias).collect()
    }

    fn operations(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        self.product(inputs, outputs).operations()
    }
}

/// A sum of products in eight interleaved partial sums: fixed order, and fast enough for twins of whole models.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// `x · wᵀ + bias`.
///
/// # Panics
/// When shapes or types do not fit.
#[track_caller]
pub fn linear(g: &mut Graph, x: Var, w: Var, bias: Option<Var>) -> Var {
    let op = Linear { epilogue: Epilogue::bias(bias.is_some()), to: None };
    let inputs: Vec<Var> = [x, w].into_iter().chain(bias).collect();
    g.apply(op, &inputs)
}

/// Cases of the op table: `[m, k, n]`, then every epilogue on one shape.
pub fn cases() -> Vec<Case> {
    let shapes = [[1, 1, 1], [1, 256, 92], [7, 5, 3], [64, 16, 64], [65, 17, 66], [129, 132, 67], [100, 36, 128], [300, 8, 260]];
    let mut cases: Vec<Case> = Vec::new();
    for (i, [m, k, n]) in shapes.into_iter().enumerate() {
        let epilogue = Epilogue::bias(i % 2 == 0);
        cases.push(case([m, k, n], epilogue));
        cases.push(half(&case([m, k, n], epilogue), k));
    }
    for activation in [Activation::None, Activation::Relu, Activation::Relu6] {
        for bits in 0..8 {
            let epilogue = Epilogue { scale: bits & 1 > 0, shift: bits & 2 > 0, residual: bits & 4 > 0, activation };
            cases.push(case([33, 20, 36], epilogue));
        }
    }
    let all = Epilogue { scale: true, shift: true, residual: true, activation: Activation::Relu };
    cases.push(half(&case([70, 64, 130], all), 64));
    cases.push(half(&case([70, 30, 131], all), 30));
    // More than 65,535 tiles.
    cases.push(case([65_535 * 32 + 1, 1, 1], Epilogue::default()));
    // A batch of 3 and a result in another type.
    let to_f32 = Linear { epilogue: Epilogue::default(), to: Some(DType::F32) };
    cases.push(Case::new(to_f32, vec![noise([3, 5, 8], 1), noise([9, 8], 2)], Tolerance::of(1e-5)).in_f16(Tolerance::of(1e-4)));
    cases
}

/// A small case that the kernel for cooperative matrices takes, more than a tile in each direction.
pub(crate) fn matrix_case() -> Case {
    half(&case([65, 72, 68], Epilogue::bias(true)), 72)
}

fn case([m, k, n]: [usize; 3], epilogue: Epilogue) -> Case {
    let mut inputs = vec![noise([m, k], 1), noise([n, k], 2)];
    inputs.extend(epilogue_inputs(epilogue, &[m, n]));
    // Sums of k products in [-1, 1], whose rounding errors grow with k.
    Case::new(Linear { epilogue, to: None }, inputs, Tolerance::of(1e-6 * (k as f32).sqrt() + 2e-6))
}

/// Noise for the inputs of an epilogue on an output of the given shape.
pub(crate) fn epilogue_inputs(epilogue: Epilogue, shape: &[usize]) -> Vec<Host> {
    let n = shape[shape.len() - 1];
    let mut inputs = Vec::new();
    inputs.extend(epilogue.scale.then(|| noise([n], 3)));
    inputs.extend(epilogue.shift.then(|| noise([n], 4)));
    inputs.extend(epilogue.residual.then(|| noise(shape, 5)));
    inputs
}

/// The case on f16 operands; scale and shift stay f32. The result is rounded to f16 once: 2^-11 relative.
pub(crate) fn half(case: &Case, k: usize) -> Case {
    let half = case.in_f16(Tolerance { absolute: 1e-3 + 1e-6 * k as f32, relative: 1.5e-3 });
    let back = |(i, h): (usize, Host)| if i >= 2 && h.shape().rank() == 1 { h.cast(DType::F32) } else { h };
    Case { inputs: half.inputs.into_iter().enumerate().map(back).collect(), ..half }
}
