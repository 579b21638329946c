//! A linear layer on codes with the layer norm behind it, for inference: [`IntegerLinear`] and a [`Coded`] norm, between which nothing is in
//! memory.
//!
//! Shapes: x i8 `[.., K]` and w i8 `[N, K]`; the constants f32 `[N + Q, 4]`: scale, shift and the norm's weight and bias, each `[N]`, and the
//! states of its Q quantizers, one behind the other, so that a kernel binds one tensor; the residual `[.., N]`; maybe what is added behind the
//! norm. Outputs are those of the norm.
//!
//! **Exactness**: every number is the one that the two ops have one after the other, on the same device to the bit: what the layer would store
//! is rounded to its type, and rows are summed up in the same order by the same code. So training, which keeps the floats between the two,
//! and what is deployed compute the same codes. It appears when graphs are fused for a device on which it is faster.
//!
//! # Where it pays
//!
//! On an H100 (driver 580.159, 2026-11-26), µs of a layer of DETR-R50 4-4-8 with its norm (`qdetr bench model --preset detr-resnet50 --precision f16
//! --bits 4-4-8 --batch 1 --profile --top 400`, which adds some 3 µs for each launch):
//!
//! | rows, K | product + norm | one kernel |
//! | --- | --- | --- |
//! | 100, 256; 850, 256 | 7.0 + 8.1; 7.4 + 8.2 | 9.6 to 10.1 |
//! | 800, 256 | 7.3 + 8.3 | 10.1 |
//! | 6800, 256 | 11.6 + 9.6 | 21.4 to 22.7 |
//! | 100, 2048; 850, 2048 | 11.4 + 8.9; 11.9 + 9.7 | 23.6; 23.5 |
//! | 6800, 2048 | 26.9 + 13.0 | 79 |
//!
//! With the first row alone in one kernel the model takes 2.295 ms in place of 2.346 at batch 1 (means of four medians of 150 runs,
//! in turn); at batch 8, where the encoder's are left as they were, the two differ by less than runs do.
//!
//! A workgroup needs whole rows, so that all weights go through one processor, which reads some 46 GB/s whatever is under way: with K = 2048
//! reading alone takes 11 µs, multiplying alone as long, both 16.
//!
//! **Tried and left**, for K = 256 and 2048 at batch 1: two slices under way in place of four 10.0 and 26; twice as many subgroups, which share k,
//! 10.3 and 27; `matrix.wgsl` itself with another end, 512 lanes, slices of 128 for all 9.7 and 24, and on tiles of 64 rows 22.7 and 62 at
//! batch 8; constants and residuals read behind the products 10.0 and 26.

use super::{Arithmetic, Bits, IntegerLinear, PLAIN, test_codes, test_inputs};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Op, ids};
use crate::kernels::binary::Binary;
use crate::kernels::coded::{Coded, Producer, clear_state};
use crate::kernels::epilogue::Epilogue;
use crate::kernels::layer_norm::LayerNorm;
use crate::kernels::quantize::{Levels, Quantize};
use crate::kernels::rows::{RowLayout, lanes};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

/// See the module.
#[derive(Clone, Debug)]
pub struct IntegerLinearNorm {
    /// Of the layer, which has scale, shift and residual, and gives floats.
    pub arithmetic: Arithmetic,
    /// The norm, with its quantizers.
    pub norm: Coded,
}

/// Codes of a chunk, which is what an invocation of the kernel on matrices of bytes loads at once.
const CHUNK: usize = 16;
/// Codes of a block of k there.
const BLOCK: usize = 256;
/// Rows of a workgroup there.
const TILE: usize = 16;
/// And columns: a workgroup has whole rows.
const COLUMNS: usize = 256;

/// Terms of sums up to which the kernel may be faster, of 256 and 2048 that were measured: with 2048 it is not, because one processor reads all
/// weights.
const MOST_K: usize = 512;
/// Rows up to which it may be faster, of 850 and 6800 that were measured: workgroups for most of some 130 processors. More read the same
/// weights once more.
const MOST_ROWS: usize = 128 * TILE;

/// Whether a device has the kernel on matrices of bytes for so many columns and terms.
fn fits(n: usize, k: usize, device: &Capabilities) -> bool {
    device.allows_bytes() && n == COLUMNS && k.is_multiple_of(CHUNK)
}

/// The inputs by what they are.
struct Operands<'a, T> {
    x: &'a T,
    w: &'a T,
    constants: &'a T,
    residual: &'a T,
    addend: Option<&'a T>,
}

impl IntegerLinearNorm {
    /// # Panics
    /// When there are others.
    #[track_caller]
    fn operands<'a, T>(&self, inputs: &'a [T]) -> Operands<'a, T> {
        let [x, w, constants, residual, rest @ ..] = inputs else {
            panic!("integer_linear_norm: wants x, w, constants and a residual, found {} inputs", inputs.len())
        };
        assert_eq!(rest.len(), usize::from(self.norm.of_sum > 0), "integer_linear_norm: tensors that are added behind the norm");
        Operands { x, w, constants, residual, addend: rest.first() }
    }

    /// Whether its best kernel on a device is on matrices of bytes and faster than the ops one by one.
    pub(crate) fn pays(&self, x: TensorType, w: TensorType, device: &Capabilities) -> bool {
        let (m, n, k) = (x.shape.rows(), w.shape.dims()[0], x.shape.last());
        fits(n, k, device) && k <= MOST_K && m <= MOST_ROWS
    }

    /// The norm itself.
    fn of(&self) -> LayerNorm {
        let Producer::LayerNorm(norm) = self.norm.of else { panic!("integer_linear_norm: {:?} is no layer norm", self.norm.of) };
        norm
    }

    /// The types of the layer's result and of the norm's results.
    fn types(&self, operands: &Operands<'_, TensorType>) -> (TensorType, Vec<TensorType>) {
        let n = operands.w.shape.dims()[0];
        let [one, of_channels, channels] = [TensorType::f32([1, 4]), TensorType::f32([n, 4]), TensorType::f32([n])];
        let of_linear = [*operands.x, *operands.w, one, of_channels, channels, channels, *operands.residual];
        let y = IntegerLinear::new(self.arithmetic).outputs(&of_linear)[0];
        let states = TensorType::f32([self.norm.quantizers.len(), 4]);
        let behind = operands.addend.into_iter().copied().chain([states]);
        (y, self.norm.outputs(&[y, channels, channels].into_iter().chain(behind).collect::<Vec<_>>()))
    }

    /// Adds what all kernels share: parameters and bindings, and what is done with sums and rows.
    fn finish(&self, dispatch: Dispatch, inputs: &[TensorType]) -> Dispatch {
        let operands = self.operands(inputs);
        let (y, _) = self.types(&operands);
        let (m, n, k) = (y.shape.rows(), y.shape.last(), operands.x.shape.last());
        let dispatch = self.arithmetic.finished(dispatch, k).constant("AT_RESIDUAL", 4);
        let dispatch = dispatch.part(wgsl!("integer/residual.wgsl")).part(wgsl!("integer/normed.wgsl"));
        self.norm
            .store_under(dispatch, operands.addend.map(|addend| (*addend, 5)), inputs.len() + 1, y)
            .params(Words::of([m, n, k, self.of().freedom(n)]).float(self.of().eps))
            .bind((0..inputs.len()).collect::<Vec<_>>())
    }

    /// The kernel on matrices of bytes, whose rows have as many lanes as those of a norm by itself.
    fn matrix(&self, inputs: &[TensorType], y: TensorType) -> Dispatch {
        let k = inputs[0].shape.last();
        let dispatch = lanes(Dispatch::new(wgsl!("integer/normed_matrix.wgsl"), inputs.len()), 4)
            .on_bytes()
            .constant("CHUNK", CHUNK)
            .constant("BLOCK", BLOCK)
            .constant("LANES", RowLayout::new(y.shape, 4).lanes)
            .flag("ALIGNED", k.is_multiple_of(BLOCK))
            .part(wgsl!("gemm/x_rows_chunks.wgsl"))
            .part(wgsl!("gemm/w_rows_chunks.wgsl"));
        self.finish(dispatch, inputs).over_groups(y.shape.rows().div_ceil(TILE))
    }

    /// The kernel that runs everywhere.
    fn portable(&self, inputs: &[TensorType], y: TensorType) -> Dispatch {
        let layout = RowLayout::new(y.shape, 4);
        let dispatch = Dispatch::new(wgsl!("integer/normed_rows.wgsl"), inputs.len()).constant("STEPS", layout.steps(y.shape.last()));
        layout.apply(self.finish(dispatch, inputs))
    }
}

impl Op for IntegerLinearNorm {
    fn name(&self) -> &'static str {
        "integer_linear_norm"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let operands = self.operands(inputs);
        let Epilogue { scale, shift, residual, .. } = self.arithmetic.epilogue;
        let (n, k) = (operands.w.shape.dims()[0], operands.x.shape.last());
        let in_words = [n, k].iter().all(|extent| extent.is_multiple_of(4));
        let of_floats = residual && !self.arithmetic.residual_codes && self.arithmetic.requantize.is_none();
        let fits = scale && shift && of_floats && in_words && *operands.constants == TensorType::f32([n + self.norm.quantizers.len(), 4]);
        assert!(fits, "integer_linear_norm: wants whole words of codes and constants [N + Q, 4], found {}", ids(inputs));
        self.of();
        self.types(&operands).1
    }

    /// That of the ops, one after the other.
    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let operands = self.operands(inputs);
        let (n, constants) = (operands.w.shape().dims()[0], operands.constants.to_f32());
        let [scale, shift, weight, bias] = [0, 1, 2, 3].map(|i| Host::f32([n], constants[i * n..][..n].to_vec()));
        let states = Host::f32([self.norm.quantizers.len(), 4], constants[4 * n..].to_vec());
        // The product reads its operands' states nowhere.
        let [x_state, w_state] = [1, n].map(|rows| Host::f32([rows, 4], vec![0.0; 4 * rows]));
        let linear = IntegerLinear::new(self.arithmetic);
        let of_linear = [operands.x, operands.w, &x_state, &w_state, &scale, &shift, operands.residual];
        let y = linear.reference(&of_linear, &linear.outputs(&of_linear.map(Host::ty))).remove(0);
        let of_norm: Vec<&Host> = [&y, &weight, &bias].into_iter().chain(operands.addend.copied()).chain([&states]).collect();
        self.norm.reference(&of_norm, outputs)
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], device: &Capabilities) -> Vec<Dispatch> {
        let operands = self.operands(inputs);
        let (y, _) = self.types(&operands);
        let matrix = fits(y.shape.last(), operands.x.shape.last(), device).then(|| self.matrix(inputs, y));
        matrix.into_iter().chain([self.portable(inputs, y)]).collect()
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        let operands = self.operands(inputs);
        let (y, _) = self.types(&operands);
        let of_element = 2 * operands.x.shape.last() + 8 + 5 * self.norm.quantizers.len();
        (y.shape.len() * of_element) as u64
    }
}

/// Cases of the op table: rows, K, N, quantizers, how many of them of a sum, and whether the floats are kept.
pub(super) fn cases() -> Vec<Case> {
    let of = [
        ([1, 4, 4], (1, 0), true),
        ([9, 20, 12], (2, 1), false),
        ([133, 36, 100], (3, 1), true),
        ([2, 64, 640], (1, 1), false),
        // For matrices of bytes: less than a tile and more, in whole slices and not, all ways to leave.
        ([5, 16, 256], (1, 0), false),
        ([17, 256, 256], (2, 1), true),
        ([70, 272, 256], (3, 2), true),
        ([33, 128, 256], (12, 6), false),
        ([130, 1040, 256], (2, 0), true),
        ([20, 2048, 256], (1, 1), true),
    ];
    of.into_iter().enumerate().flat_map(|(i, (extents, quantizers, keep))| cases_of(extents, quantizers, keep, i as u64)).collect()
}

/// A case for the kernel on matrices of bytes: a tile that is not whole, and slices neither.
pub(crate) fn matrix_case() -> Case {
    let [case, _] = cases_of([17, 272, 256], (2, 1), true, 1);
    case
}

/// In f32 and in f16.
fn cases_of(extents: [usize; 3], (count, of_sum): (usize, usize), keep: bool, i: u64) -> [Case; 2] {
    let levels = Levels::new(2 + i as u32 % 4, i.is_multiple_of(2));
    let quantizers = vec![Quantize { bits: levels.bits, signed: levels.signed, inner: 1 }; count];
    let of = Producer::LayerNorm(LayerNorm { eps: 1e-5, unbiased: i % 4 == 2 });
    [(DType::F32, 2e-4, 3e-5), (DType::F16, 2e-3, 4e-3)].map(|(to, margin, error)| {
        let bits = if i.is_multiple_of(3) { Bits { x: 8, w: 8 } } else { Bits { x: 4, w: 4 } };
        let epilogue = Epilogue { residual: true, ..PLAIN };
        let arithmetic = Arithmetic { bits, epilogue, residual_codes: false, to, requantize: None };
        let op = IntegerLinearNorm { arithmetic, norm: Coded { of, quantizers: quantizers.clone(), of_sum, keep } };
        Case::new(op.clone(), op.test_inputs(extents, margin, i), Tolerance::of(error))
    })
}

/// The first rows of a tensor over and over: what has more values than that comes too close to a tie with some of them.
fn repeated(host: &Host, rows: usize) -> Host {
    let (size, ty) = (host.as_bytes().len() / rows, TensorType { shape: host.shape().with_first(rows), ..host.ty() });
    let row = |i: usize| &host.as_bytes()[i % DISTINCT * size..][..size];
    Host::from_bytes(ty, &(0..rows).flat_map(row).copied().collect::<Vec<_>>())
}

/// So many of them, no divisor of a tile's rows.
const DISTINCT: usize = 3;

impl IntegerLinearNorm {
    /// Inputs of so many rows, K and N, with states under which no value comes close to a tie.
    fn test_inputs(&self, [m, k, n]: [usize; 3], margin: f32, seed: u64) -> Vec<Host> {
        let Arithmetic { bits, to, .. } = self.arithmetic;
        let (x, w) = (test_codes([m, k], bits.x, 10 * seed), test_codes([n, k], bits.w, 10 * seed + 1));
        let of_linear = test_inputs(self.arithmetic, repeated(&x, m), w, -1.0, &[m, n], k);
        let [x, w, x_state, w_state, scale, shift, residual] = <[Host; 7]>::try_from(of_linear).expect("everything of an epilogue");
        let residual = repeated(&residual, m);
        let [weight, bias] = [noise([n], 10 * seed + 2), noise([n], 10 * seed + 3)];
        // As long as the result, or a row of it.
        let addend = if seed.is_multiple_of(2) { repeated(&noise([m, n], 10 * seed + 4), m) } else { noise([n], 10 * seed + 4) }.cast(to);
        let ty = TensorType::new([m, n], to);
        let y = IntegerLinear::new(self.arithmetic).reference(&[&x, &w, &x_state, &w_state, &scale, &shift, &residual], &[ty]).remove(0);
        let y = self.of().reference(&[&y, &weight, &bias], &[ty]).remove(0);
        let sum = Binary::ADD.reference(&[&y, &addend], &[ty]).remove(0);
        let state = |(i, &quantizer): (usize, &Quantize)| {
            let of = if i < self.norm.quantizers.len() - self.norm.of_sum { &y } else { &sum };
            let [alpha, inverse, zero, stored] = <[f32; 4]>::try_from(&*clear_state(of, quantizer, 1, margin).to_f32()).expect("a row");
            // Each another one, which makes no tie.
            [alpha, inverse, zero + (i % 3) as f32, stored + (i % 3) as f32]
        };
        let states = self.norm.quantizers.iter().enumerate().flat_map(state);
        let constants: Vec<f32> = [scale, shift, weight, bias].iter().flat_map(|h| h.to_f32().to_vec()).chain(states).collect();
        let constants = Host::f32([constants.len() / 4, 4], constants);
        [x, w, constants, residual].into_iter().chain((self.norm.of_sum > 0).then_some(addend)).collect()
    }
}
