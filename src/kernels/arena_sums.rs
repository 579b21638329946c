//! The sums of many tensors' parts by one launch, written where gradients lie: what [`ColumnSums`](super::reduce::ColumnSums) into one row is
//! for one tensor. `(gradients f32 [N], parts f32 [S], table u32 [B, 8]) -> gradients`, in place, a [`SumBlock`] each.

use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Op, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

/// Invocations of a workgroup; each takes four numbers at once.
const GROUP: usize = 256;
/// Invocations that share a column of many parts, and what are many.
const STRIPES: usize = 8;
const MANY: usize = 16;

/// Neighbouring columns whose parts are added up.
#[derive(Clone, Copy, Debug)]
pub struct SumBlock {
    /// The first number of the first part, a multiple of 4 as all lengths are.
    pub first: usize,
    /// From the numbers of a part to those of the next.
    pub stride: usize,
    /// How many parts there are.
    pub parts: usize,
    /// Numbers of a part.
    pub count: usize,
    /// Factor of the sums.
    pub scale: f32,
    /// Where the first sum is written.
    pub to: usize,
}

impl SumBlock {
    /// Whether the kernel can add these up.
    pub fn fits(&self) -> bool {
        [self.first, self.stride, self.count, self.to].iter().all(|n| n.is_multiple_of(4))
    }

    fn stripes(&self) -> usize {
        if self.parts > MANY { STRIPES } else { 1 }
    }

    /// The blocks of one workgroup each that this is made of.
    fn split(self) -> impl Iterator<Item = Self> {
        let most = 4 * GROUP / self.stripes();
        let block = move |at| Self { first: self.first + at, to: self.to + at, count: most.min(self.count - at), ..self };
        (0..self.count).step_by(most).map(block)
    }

    /// The table for some sums.
    pub fn table(sums: &[Self]) -> Host {
        let word = |v: usize| u32::try_from(v).expect("arenas have less than 2^32 elements");
        let row = |b: Self| {
            let [first, stride, parts, to, count, stripes] = [b.first, b.stride, b.parts, b.to, b.count, b.stripes()].map(word);
            [first, stride, parts, to, count, b.scale.to_bits(), stripes, 0]
        };
        let words: Vec<u32> = sums.iter().flat_map(|b| b.split()).flat_map(row).collect();
        Host::u32([words.len() / 8, 8], words)
    }
}

/// `(gradients, parts, table) -> gradients` in place; see the module.
#[derive(Clone, Copy, Debug)]
pub struct ArenaSums;

impl Op for ArenaSums {
    fn name(&self) -> &'static str {
        "arena_sums"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let flat = |t: &TensorType| *t == TensorType::f32([t.shape.len()]) && t.shape.len().is_multiple_of(4);
        let fits =
            inputs.len() == 3 && inputs[..2].iter().all(flat) && inputs[2] == TensorType::new([inputs[2].shape.rows(), 8], DType::U32);
        assert!(fits, "arena_sums: wants gradients f32[4 · n], parts f32[4 · m] and a table u32[B, 8], found {}", ids(inputs));
        vec![inputs[0]]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (mut gradients, parts) = (inputs[0].to_f32().into_owned(), inputs[1].to_f32());
        for row in inputs[2].as_u32().chunks(8) {
            let [first, stride, count_of_parts, to, count] = [0, 1, 2, 3, 4].map(|i| row[i] as usize);
            for i in 0..count {
                let sum: f64 = (0..count_of_parts).map(|part| f64::from(parts[first + part * stride + i])).sum();
                gradients[to + i] = sum as f32 * f32::from_bits(row[5]);
            }
        }
        vec![Host::from_f32(outputs[0], gradients)]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let blocks = inputs[2].shape.rows();
        let kernel = Dispatch::new(wgsl!("reduce/arena_sums.wgsl"), 3)
            .bind([1, 2])
            .constant("GROUP", GROUP)
            .constant("MOST_STRIPES", STRIPES)
            .params(Words::of([blocks]))
            .over_groups(blocks);
        vec![kernel]
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0)]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        inputs[1].shape.len() as u64
    }
}

/// Cases of the op table, in the family of [`reduce`](super::reduce): few parts and many, of less than a block and of several.
pub(super) fn cases() -> Vec<Case> {
    let shapes = [(1, 4), (2, 1028), (16, 2100), (17, 128), (82, 256), (300, 132), (40, 4)];
    let (mut parts, mut to, mut sums) = (0, 8, Vec::new());
    for (i, (rows, columns)) in shapes.into_iter().enumerate() {
        sums.push(SumBlock { first: parts, stride: columns, parts: rows, count: columns, scale: 0.5 + i as f32 / 4.0, to });
        parts += rows * columns;
        to += columns + 12;
    }
    let inputs = vec![noise([to], 1), noise([parts], 2), SumBlock::table(&sums)];
    vec![Case::new(ArenaSums, inputs, Tolerance { absolute: 1e-4, relative: 1e-5 })]
}
