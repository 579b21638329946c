//! The straight-through gradients of many weights that lie in one arena, by one launch: what [`QuantizeBackward`] is for one of them.
//!
//! `(gradients f32 [N], arena f32 [N], states f32 [R, 4], table u32 [B, 4]) -> (gradients, sums f32 [B, 4])`, a [`WeightRow`] each: the
//! gradients of what codes stand for become those of the weights, in place, and the sums are those of [`QuantizeBackward`], one part each.

use super::codes::{test_state, test_x};
use super::{Levels, Quantize, QuantizeBackward, QuantizerState};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Op, ids};
use crate::kernels::rows::lanes;
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

/// Invocations that take a row, and rows of a workgroup.
const LANES: usize = 32;
const AT_ONCE: usize = 4;

/// Elements of the arena that share a step size.
#[derive(Clone, Copy, Debug)]
pub struct WeightRow {
    /// The first one.
    pub source: usize,
    /// How many there are.
    pub count: usize,
    /// Their state.
    pub state: usize,
    /// The levels of their codes.
    pub levels: Levels,
}

impl WeightRow {
    /// The table for some rows.
    pub fn table(rows: &[Self]) -> Host {
        let word = |v: usize| u32::try_from(v).expect("arenas have less than 2^32 elements");
        let row = |r: &Self| [word(r.source), word(r.count), word(r.state), r.levels.word()];
        Host::u32([rows.len(), 4], rows.iter().flat_map(row).collect())
    }

    /// Whether it can be read four elements at a time.
    pub fn is_aligned(&self) -> bool {
        self.source.is_multiple_of(4) && self.count.is_multiple_of(4)
    }
}

/// `(gradients, arena, states, table) -> (gradients, sums)`; see the module.
#[derive(Clone, Copy, Debug)]
pub struct ArenaBackward {
    /// Whether all rows are [aligned](WeightRow::is_aligned).
    pub aligned: bool,
}

impl Op for ArenaBackward {
    fn name(&self) -> &'static str {
        "arena_backward"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [gradients, arena, states, table] = inputs else { panic!("arena_backward: wants four inputs, found {}", ids(inputs)) };
        let (n, rows) = (arena.shape.len(), table.shape.rows());
        let fits = *arena == TensorType::f32([n]) && gradients == arena && *states == TensorType::f32([states.shape.rows(), 4]);
        let fits = fits && *table == TensorType::new([rows, 4], DType::U32) && (!self.aligned || n.is_multiple_of(4));
        assert!(fits, "arena_backward: wants gradients and weights f32[N], f32[R, 4] and u32[B, 4], found {}", ids(inputs));
        vec![*gradients, TensorType::f32([rows, 4])]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (mut gradients, arena, states) = (inputs[0].to_f32().into_owned(), inputs[1].to_f32(), inputs[2].to_f32());
        let mut sums = Vec::new();
        for row in inputs[3].as_u32().chunks(4) {
            let [source, count, state] = [row[0], row[1], row[2]].map(|v| v as usize);
            let levels = Levels::of_word(row[3]);
            let op = QuantizeBackward::of(Quantize { bits: levels.bits, signed: levels.signed, inner: 1 }, true);
            let [x, d] = [&arena[..], &gradients].map(|all| Host::f32([count], all[source..][..count].to_vec()));
            let state = Host::f32([1, 4], states[4 * state..][..4].to_vec());
            // The twin adds in f64: in how many parts changes little.
            let types = op.outputs(&[x.ty(), state.ty(), d.ty()]);
            let results = op.reference(&[&x, &state, &d], &types);
            gradients[source..][..count].copy_from_slice(&results[0].to_f32());
            let column = |c: usize| results[1].to_f32().iter().skip(c).step_by(4).sum::<f32>();
            sums.extend([0, 1, 2, 3].map(column));
        }
        vec![Host::from_f32(outputs[0], gradients), Host::from_f32(outputs[1], sums)]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let (rows, width) = (inputs[3].shape.rows(), if self.aligned { 4 } else { 1 });
        let kernel = Dispatch::new(wgsl!("quantize/arena_backward.wgsl"), 4)
            .bind([1, 2, 3])
            .constant("GROUP", LANES * AT_ONCE)
            .constant("LANES", LANES)
            .constant("WIDTH", width)
            .params(Words::of([rows]))
            .over_groups(rows.div_ceil(AT_ONCE));
        vec![lanes(kernel, width)]
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0)]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        12 * inputs[0].shape.len() as u64
    }
}

/// Tensors of rows that are shorter and longer than a step of all lanes, aligned and not, with gaps between them.
pub(super) fn cases() -> Vec<Case> {
    let shapes: [&[(usize, usize)]; 3] = [&[(1, 1), (5, 7), (9, 147), (3, 515)], &[(3, 512), (40, 64), (1, 1028), (7, 4)], &[(1, 4)]];
    let of = |(i, tensors): (usize, &&[(usize, usize)])| {
        let (mut arena, mut states, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for (j, &(groups, count)) in tensors.iter().enumerate() {
            let (seed, levels) = ((10 * i + j) as u64, Levels::new(2 + (2 * i + j) as u32 % 7, j % 2 == 0));
            let first = states.len() / 4;
            let op = QuantizerState { bits: levels.bits, signed: levels.signed };
            states.extend_from_slice(&test_state(op, groups, seed, j > 1).to_f32());
            let row = |r: usize| WeightRow { source: arena.len() + r * count, count, state: first + r, levels };
            rows.extend((0..groups).map(row));
            arena.extend_from_slice(&test_x(&[groups * count], levels.bits, seed).to_f32());
            arena.resize(arena.len().next_multiple_of(8) + 4, 7.0);
        }
        let (n, r) = (arena.len(), states.len() / 4);
        let inputs = vec![noise([n], 77), Host::f32([n], arena), Host::f32([r, 4], states), WeightRow::table(&rows)];
        let op = ArenaBackward { aligned: rows.iter().all(WeightRow::is_aligned) };
        Case::new(op, inputs, Tolerance { absolute: 5e-3, relative: 1e-5 })
    };
    shapes.iter().enumerate().map(of).collect()
}
