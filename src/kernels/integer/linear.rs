//! Linear layers on codes: x i8 `[.., K]` and w i8 `[N, K]` to floats `[.., N]`.
//!
//! Layers of equal shapes can be one product each of several: x `[P, M, K]` and w `[P · N, K]` to `[P, M, N]`, all other inputs one behind
//! the other too, x's states `[P, 4]`. Small ones take as long to launch as to run.

use super::gradient::{assert_plain, weight_gradient, weight_values};
use super::product::{IntegerProduct, dot};
use super::scale::shift_gradients;
use super::{Arithmetic, PLAIN, Requantize, SUMS, all_ends, test_arithmetic, test_arithmetics, test_codes, test_inputs};
use crate::gpu::{Capabilities, Dispatch};
use crate::graph::check::Case;
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::kernels::gemm::{Layout, Product};
use crate::kernels::linear::Linear;
use crate::kernels::matmul::matmul;
use crate::kernels::quantize::Levels;
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use rayon::prelude::*;

/// See the module, and [`Arithmetic`] for the inputs.
#[derive(Clone, Copy, Debug)]
pub struct IntegerLinear {
    /// Bits, epilogue and result.
    pub arithmetic: Arithmetic,
    /// How many layers it is: more than one appear when graphs are fused.
    pub products: usize,
}

impl IntegerLinear {
    /// One layer.
    pub fn new(arithmetic: Arithmetic) -> Self {
        Self { arithmetic, products: 1 }
    }

    fn product(self, inputs: &[TensorType], outputs: &[TensorType]) -> IntegerProduct {
        let all = Linear { epilogue: self.arithmetic.epilogue, to: None }.product(inputs, outputs);
        let geometry = Product { m: all.m / self.products, n: all.n / self.products, groups: self.products, ..all };
        IntegerProduct { geometry, arithmetic: self.arithmetic, recodes: None }
    }

    /// The twin of several layers: one by one.
    fn each(self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let count = self.products;
        let first_of = |ty: TensorType| TensorType { shape: ty.shape.with_first(ty.shape.dims()[0] / count), ..ty };
        let types: Vec<TensorType> = outputs.iter().map(|&ty| first_of(ty)).collect();
        let mut bytes = vec![Vec::new(); outputs.len()];
        for i in 0..count {
            let of_input = |h: &&Host| Host::from_bytes(first_of(h.ty()), &h.as_bytes()[i * h.as_bytes().len() / count..]);
            let inputs: Vec<Host> = inputs.iter().map(of_input).collect();
            let results = Self::new(self.arithmetic).reference(&inputs.iter().collect::<Vec<_>>(), &types);
            bytes.iter_mut().zip(results).for_each(|(all, one)| all.extend_from_slice(one.as_bytes()));
        }
        outputs.iter().zip(bytes).map(|(&ty, bytes)| Host::from_bytes(ty, &bytes)).collect()
    }
}

impl Op for IntegerLinear {
    fn name(&self) -> &'static str {
        "integer_linear"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        assert!(inputs.len() >= Arithmetic::FIRST, "integer_linear: wants x, w and their states, found {}", ids(inputs));
        let (x, w) = (inputs[0], inputs[1]);
        let fits = w.shape.rank() == 2 && w.shape.last() == x.shape.last() && [x, w].iter().all(|t| t.dtype == DType::I8);
        assert!(fits, "integer_linear: wants codes x [.., K] and w [N, K], found {}", ids(inputs));
        let (count, n) = (self.products, w.shape.dims()[0]);
        let several = x.shape.dims()[0] == count && n.is_multiple_of(4 * count) && !self.arithmetic.epilogue.residual;
        assert!(
            count == 1 || several,
            "integer_linear: {count} layers want x [{count}, M, K] and w of as many parts, found {}",
            ids(inputs)
        );
        self.arithmetic.outputs(self.name(), inputs, count, x.shape.with_last(n / count), x.shape.last())
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        if self.products > 1 {
            return self.each(inputs, outputs);
        }
        let (x, w) = (inputs[0].as_i8(), inputs[1].as_i8());
        let (k, n) = (inputs[0].shape().last(), inputs[1].shape().dims()[0]);
        let shape = inputs[0].shape().with_last(n);
        let mut sums = vec![0; shape.len()];
        sums.par_chunks_mut(n).zip(x.par_chunks(k)).for_each(|(sums, x)| {
            for (sum, w) in sums.iter_mut().zip(w.chunks(k)) {
                *sum = dot(x, w);
            }
        });
        self.arithmetic.reference(inputs, &sums, shape, outputs)
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], device: &Capabilities) -> Vec<Dispatch> {
        self.product(inputs, outputs).kernels(device)
    }

    fn gradient(&self, g: &mut Graph, io: &Io, d_outputs: &[Option<Var>], wanted: &[bool]) -> Vec<Option<Var>> {
        assert_plain(self.name(), self.arithmetic);
        assert_eq!(self.products, 1, "integer_linear: differentiate the graph before it is fused");
        let Some(d_y) = d_outputs[0] else { return vec![None; wanted.len()] };
        let (x, n) = (g.shape(io.inputs[0]), g.shape(d_y).last());
        let d_y = g.reshape(d_y, [x.rows(), n]);
        let d_x = wanted[0].then(|| {
            let w = weight_values(g, d_y, io);
            let to = g.ty(d_y).dtype;
            let d_x = matmul(g, d_y, w, [Layout::Rows, Layout::Columns], to);
            g.reshape(d_x, x.dims())
        });
        let d_w = wanted[1].then(|| {
            let rows = g.reshape(io.inputs[0], [x.rows(), x.last()]);
            let io = Io { inputs: [&[rows], &io.inputs[1..]].concat(), outputs: Vec::new() };
            weight_gradient(g, d_y, &io, None)
        });
        [d_x, d_w].into_iter().chain(shift_gradients(g, self.arithmetic, d_y, wanted)).collect()
    }

    fn operations(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        self.product(inputs, outputs).geometry.operations()
    }
}

/// Cases of the op table: `[m, k, n]`, bits.
pub(super) fn cases() -> Vec<Case> {
    let shapes = [
        ([1, 1, 1], [8, 8]),
        ([7, 5, 3], [4, 4]),
        ([33, 20, 36], [4, 4]),
        ([65, 32, 66], [2, 3]),
        ([129, 132, 68], [8, 8]),
        ([100, 256, 92], [4, 8]),
        ([70, 30, 131], [8, 2]),
        ([300, 16, 260], [3, 4]),
        ([5, 1030, 8], [8, 8]),
        ([6, 1100, 9], [8, 8]),
        // For matrices of bytes: more than a tile and a slice each way, and sums that f32 could not hold.
        ([130, 272, 132], [4, 8]),
        ([9, 64, 6], [2, 2]),
        ([7, 1104, 36], [8, 8]),
        ([200, 48, 68], [8, 3]),
    ];
    let mut cases = Vec::new();
    for (i, ([m, k, n], bits)) in shapes.into_iter().enumerate() {
        let (x, w) = (test_codes([m, k], bits[0], i as u64), test_codes([n, k], bits[1], 90 + i as u64));
        for arithmetic in test_arithmetics(i, bits, n, 0) {
            let inputs = test_inputs(arithmetic, x.clone(), w.clone(), -1.0, &[m, n], k);
            cases.push(Case::new(IntegerLinear::new(arithmetic), inputs, Tolerance::EXACT));
        }
    }
    let (m, k, n) = (133, 32, 132);
    cases.extend(all_ends(0).into_iter().map(|arithmetic| {
        let (x, w) = (test_codes([m, k], 4, 40), test_codes([n, k], 8, 41));
        Case::new(IntegerLinear::new(arithmetic), test_inputs(arithmetic, x, w, -2.0, &[m, n], k), Tolerance::EXACT)
    }));
    cases.extend(cases_of_several());
    cases.push(extreme_case());
    cases
}

/// Several layers: more rows than a tile and fewer, in whole slices and not, to floats, codes, both, and codes of several step sizes.
fn cases_of_several() -> Vec<Case> {
    let shapes = [
        ([2, 7, 20, 36], 1, false),
        ([3, 133, 48, 132], 1, true),
        ([12, 5, 256, 64], 4, false),
        ([2, 70, 30, 68], 17, true),
        ([2, 70, 48, 132], 1, false),
    ];
    let mut cases = Vec::new();
    for (i, ([products, m, k, n], groups, keep)) in shapes.into_iter().enumerate() {
        let floats = Arithmetic { epilogue: PLAIN, ..test_arithmetic(i + i / 2, [4, 4]) };
        let requantize = Requantize { levels: Levels::new(8, i % 2 == 0), quantizers: 1, groups, keep, again: None };
        for arithmetic in [floats, Arithmetic { requantize: Some(requantize), ..floats }] {
            let each = |p: usize| {
                let (x, w) = (test_codes([1, m, k], 4, 60 + p as u64), test_codes([n, k], 4, 80 + p as u64));
                test_inputs(arithmetic, x, w, -2.0, &[1, m, n], k)
            };
            let each: Vec<Vec<Host>> = (0..products).map(each).collect();
            let inputs = (0..each[0].len()).map(|i| one_behind_the_other(each.iter().map(|inputs| &inputs[i])));
            cases.push(Case::new(IntegerLinear { arithmetic, products }, inputs.collect(), Tolerance::EXACT));
        }
    }
    cases
}

fn one_behind_the_other<'a>(hosts: impl Iterator<Item = &'a Host>) -> Host {
    let hosts: Vec<&Host> = hosts.collect();
    let (ty, rows) = (hosts[0].ty(), hosts.iter().map(|h| h.shape().dims()[0]).sum());
    let bytes: Vec<u8> = hosts.iter().flat_map(|h| h.as_bytes()).copied().collect();
    Host::from_bytes(TensorType { shape: ty.shape.with_first(rows), ..ty }, &bytes)
}

/// The longest sum of a detector under the largest codes: odd products whose sums pass 2^24 by far, so that sums in f32 alone would
/// round, and the last conversion does, each way.
fn extreme_case() -> Case {
    let (k, n) = (4608, 16);
    let arithmetic = Arithmetic { epilogue: SUMS, ..test_arithmetic(0, [8, 8]) };
    let x: Vec<i8> = (0..2 * k).map(|i| if i < k { 127 } else { -128 }).collect();
    let w = (0..n * k).map(|i| if i % k == 0 { (i / k) as i8 - 8 } else { 127 }).collect();
    let inputs = test_inputs(arithmetic, Host::i8([2, k], x), Host::i8([n, k], w), 127.0, &[2, n], k);
    Case::new(IntegerLinear::new(arithmetic), inputs, Tolerance::EXACT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extreme_case_would_overflow_f32() {
        let case = extreme_case();
        let k = case.inputs[0].shape().last();
        let w = case.inputs[1].as_i8();
        let mut wrong = 0;
        for (row, w) in w.chunks(k).enumerate() {
            let exact = dot(&case.inputs[0].as_i8()[..k], w);
            assert!(exact > 1 << 26);
            let in_f32 = w.iter().fold(0f32, |sum, &w| sum + 127.0 * f32::from(w));
            wrong += usize::from(in_f32 != exact as f32);
            assert_eq!(
                case.op.reference(&case.inputs.iter().collect::<Vec<_>>(), &[TensorType::f32([2, 16])])[0].to_f32()[row],
                exact as f32
            );
        }
        assert!(wrong > 8, "sums in f32 were right but for {wrong}");
    }

    #[test]
    #[should_panic(expected = "leave 31 bits")]
    fn sums_that_leave_31_bits_are_refused() {
        let k = 1 << 17;
        let types = [[2, k], [3, k]].map(|shape| TensorType::new(shape, DType::I8));
        let op = IntegerLinear::new(Arithmetic { epilogue: SUMS, ..test_arithmetic(0, [8, 8]) });
        op.outputs(&[types[0], types[1], TensorType::f32([1, 4]), TensorType::f32([3, 4])]);
    }
}
