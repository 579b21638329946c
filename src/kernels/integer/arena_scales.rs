//! The scales and shifts of many products of codes by one launch: what [`IntegerScale`] is for one of them. `(arena f32 [N], states f32
//! [R, 4], codes i8 [C], table u32 [B, 8]) -> (scales f32 [B], shifts f32 [B])`, a [`ScaleRow`] each.

use super::{IntegerScale, test_codes, test_state};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Op, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

/// Invocations of a workgroup, and of a row of codes.
const GROUP: usize = 256;
const LANES: usize = 32;
/// A place that there is none of.
const NONE: u32 = u32::MAX;

/// An output channel of a product.
#[derive(Clone, Copy, Debug)]
pub struct ScaleRow {
    /// The first of its codes.
    pub first: usize,
    /// How many there are: at least one.
    pub count: usize,
    /// The state of x, and that of its weights.
    pub states: [usize; 2],
    /// Where its bias lies in the arena; without one it is 0.
    pub bias: Option<usize>,
}

impl ScaleRow {
    /// The table for some rows; gaps become zeros.
    pub fn table(rows: &[Option<Self>]) -> Host {
        let word = |v: usize| u32::try_from(v).expect("arenas have less than 2^32 elements");
        let row = |row: &Option<Self>| {
            row.map_or([0; 8], |r| {
                let [first, count, x, w] = [r.first, r.count, r.states[0], r.states[1]].map(word);
                [first, count, x, w, r.bias.map_or(NONE, word), 0, 0, 0]
            })
        };
        Host::u32([rows.len(), 8], rows.iter().flat_map(row).collect())
    }
}

/// `(arena, states, codes, table) -> (scales, shifts)`; see the module.
#[derive(Clone, Copy, Debug)]
pub struct ArenaScales;

impl Op for ArenaScales {
    fn name(&self) -> &'static str {
        "arena_scales"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [arena, states, codes, table] = inputs else { panic!("arena_scales: wants four inputs, found {}", ids(inputs)) };
        let rows = table.shape.rows();
        let fits = *arena == TensorType::f32([arena.shape.len()]) && *states == TensorType::f32([states.shape.rows(), 4]);
        let fits = fits && codes.dtype == DType::I8 && *table == TensorType::new([rows, 8], DType::U32);
        assert!(fits, "arena_scales: wants f32[N], f32[R, 4], i8[C] and u32[B, 8], found {}", ids(inputs));
        vec![TensorType::f32([rows]); 2]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (arena, states, codes) = (inputs[0].to_f32(), inputs[1].to_f32(), inputs[2].as_i8());
        let state = |index: u32| Host::f32([1, 4], states[4 * index as usize..][..4].to_vec());
        let both = |row: &[u32]| {
            if row[1] == 0 {
                return [0.0; 2];
            }
            let w = codes[row[0] as usize..][..row[1] as usize].to_vec();
            let bias = (row[4] != NONE).then(|| Host::f32([1], vec![arena[row[4] as usize]]));
            let given: Vec<Host> = [state(row[2]), state(row[3]), Host::i8([1, w.len()], w)].into_iter().chain(bias).collect();
            let results = IntegerScale.reference(&given.iter().collect::<Vec<_>>(), &[TensorType::f32([1]); 2]);
            [0, 1].map(|i| results[i].to_f32()[0])
        };
        let all: Vec<[f32; 2]> = inputs[3].as_u32().chunks(8).map(both).collect();
        [0, 1].map(|i| Host::from_f32(outputs[i], all.iter().map(|both| both[i]).collect())).into()
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let rows = inputs[3].shape.rows();
        let kernel = Dispatch::new(wgsl!("integer/arena_scales.wgsl"), 4)
            .constant("GROUP", GROUP)
            .constant("LANES", LANES)
            .params(Words::of([rows]))
            .over_groups(rows.div_ceil(GROUP / LANES));
        vec![kernel]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        inputs[2].shape.len() as u64
    }
}

/// Layers of short and long rows, which begin at any byte of a word; every other one has biases; gaps between them.
pub(super) fn cases() -> Vec<Case> {
    let (mut states, mut codes, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for (i, (n, k)) in [(1, 1), (5, 3), (7, 30), (36, 256), (3, 4609)].into_iter().enumerate() {
        let first = states.len() / 4;
        states.extend_from_slice(&test_state(1, 0.0731, -7.0, i as u64).to_f32());
        states.extend_from_slice(&test_state(n, 0.0319, 0.0, i as u64 + 20).to_f32());
        let bias = |r: usize| (i % 2 == 1).then_some(3 * r + i);
        let row = |r: usize| ScaleRow { first: codes.len() + r * k, count: k, states: [first, first + 1 + r], bias: bias(r) };
        rows.extend((0..n).map(|r| Some(row(r))));
        rows.push(None);
        codes.extend_from_slice(test_codes([n, k], 2 + i as u32, i as u64).as_i8());
    }
    codes.resize(codes.len().next_multiple_of(4), 0);
    let inputs = [noise([128], 3), Host::f32([states.len() / 4, 4], states), Host::i8([codes.len()], codes), ScaleRow::table(&rows)];
    vec![Case::new(ArenaScales, inputs.into(), Tolerance::EXACT)]
}
