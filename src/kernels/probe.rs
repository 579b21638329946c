//! What a device can do at most: copies without arithmetic, and arithmetic without memory. `qdetr bench kernels` measures the others
//! against these.
//!
//! | probe | inputs | output | an invocation does |
//! | --- | --- | --- | --- |
//! | [`Probe::Copy`] | x f32 `[4 n]` | like x | `y = x` |
//! | [`Probe::MultiplyAdd`] | x f32 `[n]` | like x | 32 chains of f32 multiply-adds |
//! | [`Probe::Dot`] | x u32 `[n]` | like x | 8 chains of products of four bytes |
//! | [`Probe::Matrix`] | a f16 `[32, 16]`, b f16 `[64, 16]` | f32 `[subgroups, 16, 16]` | a subgroup: 8 chains of products of 16 × 16 |
//! | [`Probe::ByteMatrix`] | a i8 `[32, 32]`, b i8 `[64, 32]` | the same | the same, 16 × 32 by 32 × 16 with i32 sums |
//!
//! They are ops like all others, so that what they compute is checked: a compiler that had optimized the work away would be fast.

use crate::gpu::{Capabilities, Dispatch, Tier, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Op, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

const GROUP: usize = 256;
/// Chains of multiply-adds of an invocation.
const MULTIPLY_ADDS: usize = 32;
/// Chains of products of bytes of an invocation.
const DOTS: usize = 8;
/// Steps that are written out where a loop's own instructions would count.
const EIGHT: usize = 8;
/// Blocks of a and of b, 16 × 16 each; a subgroup multiplies each with each.
const BLOCKS: [usize; 2] = [2, 4];
const SIDE: usize = 16;
/// The subgroups in a workgroup of `matrix.wgsl`.
const SUBGROUPS: usize = 4;
/// What the chains of multiply-adds are multiplied with: they stay finite.
const FACTOR: f32 = 0.5;

/// See the module; `rounds` is the length of the chains, of matrices in single steps, otherwise in eights, which are written out.
#[derive(Clone, Copy, Debug)]
pub enum Probe {
    /// Memory.
    Copy,
    /// f32 arithmetic.
    MultiplyAdd {
        /// Eight steps of each chain.
        rounds: usize,
    },
    /// Products of packed bytes.
    Dot {
        /// Eight steps of each chain.
        rounds: usize,
    },
    /// Cooperative matrices, f16 with f32 sums.
    Matrix {
        /// How many compute the same.
        subgroups: usize,
        /// Steps of each chain.
        rounds: usize,
    },
    /// Cooperative matrices, bytes with i32 sums.
    ByteMatrix {
        /// How many compute the same.
        subgroups: usize,
        /// Steps of each chain.
        rounds: usize,
    },
}

impl Probe {
    /// The types of inputs for `n` invocations, or vec4s to copy.
    pub fn inputs(self, n: usize) -> Vec<TensorType> {
        match self {
            Self::Copy => vec![TensorType::f32([4 * n])],
            Self::MultiplyAdd { .. } => vec![TensorType::f32([n])],
            Self::Dot { .. } => vec![TensorType::new([n], DType::U32)],
            Self::Matrix { .. } => BLOCKS.map(|blocks| TensorType::new([blocks * SIDE, SIDE], DType::F16)).to_vec(),
            Self::ByteMatrix { .. } => BLOCKS.map(|blocks| TensorType::new([blocks * SIDE, 2 * SIDE], DType::I8)).to_vec(),
        }
    }
}

impl Op for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let wanted = self.inputs(inputs[0].shape.len() / if matches!(self, Self::Copy) { 4 } else { 1 });
        assert!(inputs == wanted, "probe: {self:?} wants {}, found {}", ids(&wanted), ids(inputs));
        match self {
            Self::Matrix { subgroups, .. } | Self::ByteMatrix { subgroups, .. } => vec![TensorType::f32([*subgroups, SIDE, SIDE])],
            _ => vec![inputs[0]],
        }
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        match *self {
            Self::Copy => vec![inputs[0].clone()],
            Self::MultiplyAdd { rounds } => {
                let chain = |x: f32, first: f32| (0..EIGHT * rounds).fold(first, |a, _| a.mul_add(FACTOR, x));
                let sum = |&x: &f32| (0..MULTIPLY_ADDS).map(|i| chain(x, i as f32 / 4.0)).sum();
                vec![Host::from_f32(outputs[0], inputs[0].to_f32().iter().map(sum).collect())]
            }
            Self::Dot { rounds } => {
                let chain = |x: u32, first: u32| (0..EIGHT * rounds).fold(first, |a, _| a.wrapping_add(dot_bytes(a, x)));
                let sum = |&x: &u32| (0..DOTS as u32).fold(0u32, |sum, i| sum.wrapping_add(chain(x, x.wrapping_add(i))));
                vec![Host::u32(outputs[0].shape.dims(), inputs[0].as_u32().iter().map(sum).collect())]
            }
            Self::Matrix { subgroups, rounds } => {
                let block = products(&inputs[0].to_f32(), &inputs[1].to_f32(), SIDE, rounds as f32);
                vec![Host::from_f32(outputs[0], block.repeat(subgroups))]
            }
            Self::ByteMatrix { subgroups, rounds } => {
                let [a, b] = [0, 1].map(|i| inputs[i].as_i8().iter().map(|&code| f32::from(code)).collect::<Vec<_>>());
                vec![Host::from_f32(outputs[0], products(&a, &b, 2 * SIDE, rounds as f32).repeat(subgroups))]
            }
        }
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], device: &Capabilities) -> Vec<Dispatch> {
        let n = inputs[0].shape.len();
        let flat = |dispatch: Dispatch, params, n| dispatch.constant("GROUP", GROUP).params(params).over_items(n, GROUP);
        let mut kernels = match *self {
            Self::Copy => vec![flat(Dispatch::new(wgsl!("probe/copy.wgsl"), 1), Words::of([n / 4]), n / 4)],
            Self::MultiplyAdd { rounds } => {
                let params = Words::of([n, rounds]).float(FACTOR);
                vec![flat(Dispatch::new(wgsl!("probe/multiply_add.wgsl"), 1), params, n)]
            }
            Self::Dot { rounds } => {
                let dot = |part| flat(Dispatch::new(wgsl!("probe/dot.wgsl"), 1).part(part), Words::of([n, rounds]), n);
                vec![dot(wgsl!("probe/dot_packed.wgsl")).tier(Tier::Packed), dot(wgsl!("probe/dot_plain.wgsl"))]
            }
            Self::Matrix { subgroups, rounds } => {
                let params = Words::of([subgroups, rounds]);
                let matrix = |source| Dispatch { f16: true, ..Dispatch::new(source, 2) }.params(params.clone());
                vec![
                    matrix(wgsl!("probe/matrix.wgsl")).tier(Tier::Matrix).over_groups(subgroups.div_ceil(SUBGROUPS)),
                    matrix(wgsl!("probe/matrix_plain.wgsl")).over_groups(subgroups),
                ]
            }
            Self::ByteMatrix { subgroups, rounds } => {
                let matrix = |source| Dispatch::new(source, 2).params(Words::of([subgroups, rounds]));
                vec![
                    matrix(wgsl!("probe/byte_matrix.wgsl")).on_bytes().over_groups(subgroups.div_ceil(SUBGROUPS)),
                    matrix(wgsl!("probe/byte_matrix_plain.wgsl")).over_groups(subgroups),
                ]
            }
        };
        kernels.retain(|k| device.allows(k.tier) && (!k.bytes || device.allows_bytes()));
        kernels
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        let n = inputs[0].shape.len();
        let operations = match *self {
            Self::Copy => 0,
            Self::MultiplyAdd { rounds } => n * MULTIPLY_ADDS * EIGHT * rounds * 2,
            Self::Dot { rounds } => n * DOTS * EIGHT * rounds * 8,
            Self::Matrix { subgroups, rounds } => subgroups * rounds * BLOCKS[0] * BLOCKS[1] * 2 * SIDE.pow(3),
            Self::ByteMatrix { subgroups, rounds } => subgroups * rounds * BLOCKS[0] * BLOCKS[1] * 4 * SIDE.pow(3),
        };
        operations as u64
    }
}

/// The product of the four signed bytes of two words.
fn dot_bytes(a: u32, b: u32) -> u32 {
    let bytes = |v: u32| v.to_le_bytes().map(|byte| i32::from(byte as i8));
    bytes(a).into_iter().zip(bytes(b)).map(|(a, b)| a * b).sum::<i32>() as u32
}

/// `factor` times the sum of the products of each block of a, 16 rows of `depth` numbers, with each of b, which is transposed.
fn products(a: &[f32], b: &[f32], depth: usize, factor: f32) -> Vec<f32> {
    let block = SIDE * depth;
    let element = |i: usize| {
        let (row, column) = (i / SIDE * depth, i % SIDE * depth);
        let product = |(a, b): (&[f32], &[f32])| (0..depth).map(|k| a[row + k] * b[column + k]).sum::<f32>();
        let pairs = a.chunks(block).flat_map(|a| b.chunks(block).map(move |b| (a, b)));
        factor * pairs.map(product).sum::<f32>()
    };
    (0..SIDE * SIDE).map(element).collect()
}

/// Cases of the op table.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, n) in [1usize, 3, 257, 1021].into_iter().enumerate() {
        let (seed, rounds) = (i as u64, 3 * i + 1);
        cases.push(Case::new(Probe::Copy, vec![noise([4 * n], seed)], Tolerance::EXACT));
        // Fused or not, and in whatever order 32 numbers below 16 are summed.
        cases.push(Case::new(Probe::MultiplyAdd { rounds }, vec![noise([n], seed)], Tolerance::of(1e-5)));
        let words = noise([n], seed).to_f32().iter().map(|v| v.to_bits()).collect();
        cases.push(Case::new(Probe::Dot { rounds }, vec![Host::u32([n], words)], Tolerance::EXACT));
        // Codes of 4 bits, whose sums are exact.
        let code =
            |ty: &TensorType| Host::from_f32(*ty, noise(ty.shape.dims(), seed + 9).to_f32().iter().map(|v| (v * 8.0).floor()).collect());
        let matrix = Probe::Matrix { subgroups: n.min(33), rounds };
        cases.push(Case::new(matrix, matrix.inputs(1).iter().map(code).collect(), Tolerance::EXACT));
        let bytes = |ty: &TensorType| {
            Host::i8(ty.shape.dims(), noise(ty.shape.dims(), seed + 9).to_f32().iter().map(|v| (v * 8.0) as i8).collect())
        };
        let matrix = Probe::ByteMatrix { subgroups: n.min(33), rounds };
        cases.push(Case::new(matrix, matrix.inputs(1).iter().map(bytes).collect(), Tolerance::EXACT));
    }
    cases
}
