//! The codes of many tensors that lie in one arena, and the values that they stand for, by one launch: what [`Quantize`] and
//! [`Dequantize`](super::Dequantize) are for one tensor. `(arena f32 [N], states f32 [R, 4], table u32 [B, 8]) -> (codes i8 [B · 512], values
//! [V])`, a [`CodeBlock`] for each 512 codes; values in f32 or f16, as many for each block as it has elements, rounded up to four.

use super::codes::test_state;
use super::{Levels, Quantize, QuantizerState};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Op, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

/// Codes that belong to one tensor.
const BLOCK: usize = 512;

/// What a block of codes is of.
#[derive(Clone, Copy, Debug)]
pub struct CodeBlock {
    /// Its first element in the arena, a multiple of 4.
    pub source: usize,
    /// How many elements it has.
    pub count: usize,
    /// The number of its first element in the tensor.
    pub element: usize,
    /// Neighbours in the tensor that share a step size.
    pub inner: usize,
    /// The tensor's first state and its last.
    pub states: [usize; 2],
    /// The levels of the codes.
    pub levels: Levels,
    /// Where the value of its first element is written, a multiple of 4.
    pub values: usize,
}

impl CodeBlock {
    /// The blocks of a tensor of so many elements, of which this one, with the whole count, is the first.
    pub fn all(self) -> impl Iterator<Item = Self> {
        (0..self.count).step_by(BLOCK).map(move |at| Self {
            source: self.source + at,
            count: (self.count - at).min(BLOCK),
            element: self.element + at,
            values: self.values + at,
            ..self
        })
    }

    /// The table for some blocks; `None` is a gap.
    pub fn table(blocks: &[Option<Self>]) -> Host {
        let word = |v: usize| u32::try_from(v).expect("arenas have less than 2^32 elements");
        let row = |block: &Option<Self>| {
            block.map_or([0; 8], |b| {
                let [source, count, element, inner] = [b.source, b.count, b.element, b.inner].map(word);
                [source, count, element, inner, word(b.states[0]), word(b.states[1]), b.levels.word(), word(b.values)]
            })
        };
        Host::u32([blocks.len(), 8], blocks.iter().flat_map(row).collect())
    }
}

/// `(arena, states, table) -> (codes, values)`; see the module.
#[derive(Clone, Copy, Debug)]
pub struct ArenaCodes {
    /// How many values there are.
    pub values: usize,
    /// Their element type.
    pub to: DType,
}

impl Op for ArenaCodes {
    fn name(&self) -> &'static str {
        "arena_codes"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [arena, states, table] = inputs else { panic!("arena_codes: wants an arena, states and a table, found {}", ids(inputs)) };
        let (n, blocks) = (arena.shape.len(), table.shape.rows());
        let fits = *arena == TensorType::f32([n]) && n.is_multiple_of(4) && *states == TensorType::f32([states.shape.rows(), 4]);
        let fits = fits && *table == TensorType::new([blocks, 8], DType::U32) && self.to.is_float() && self.values.is_multiple_of(4);
        assert!(fits, "arena_codes: {self:?} wants f32[N], f32[R, 4] and u32[B, 8], found {}", ids(inputs));
        vec![TensorType::new([blocks * BLOCK], DType::I8), TensorType::new([self.values], self.to)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (arena, states) = (inputs[0].to_f32(), inputs[1].to_f32());
        let (mut codes, mut values) = (vec![0i8; outputs[0].shape.len()], vec![0.0; self.values]);
        for (block, row) in inputs[2].as_u32().chunks(8).enumerate() {
            let [source, count, element, inner, first, last, levels, at] = [0, 1, 2, 3, 4, 5, 6, 7].map(|i| row[i] as usize);
            for i in 0..if levels == 0 { 0 } else { count } {
                let state = &states[4 * (first + (element + i) / inner).min(last)..][..4];
                let quantizer = Quantize { bits: (levels & 255) as u32, signed: levels > 255, inner: 1 };
                let one = [Host::f32([1], vec![arena[source + i]]), Host::f32([1, 4], state.to_vec())];
                let code = quantizer.reference(&[&one[0], &one[1]], &[TensorType::new([1], DType::I8)])[0].as_i8()[0];
                codes[block * BLOCK + i] = code;
                values[at + i] = state[0] * (f32::from(code) - state[3]);
            }
        }
        vec![Host::i8([codes.len()], codes), Host::from_f32(outputs[1], values)]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let blocks = inputs[2].shape.rows();
        let kernel = Dispatch::new(wgsl!("quantize/arena_codes.wgsl"), 3)
            .element("element_y", self.to)
            .constant("BLOCK", BLOCK)
            .params(Words::of([blocks]))
            .over_groups(blocks);
        vec![kernel]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        7 * (inputs[2].shape.rows() * BLOCK) as u64
    }
}

/// Tensors of one element to several blocks, of rows that four divides and does not, of one step size; gaps between them.
pub(super) fn cases() -> Vec<Case> {
    let (mut arena, mut states, mut blocks, mut values) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for (i, (groups, inner)) in [(1, 1), (5, 7), (3, 512), (40, 64), (1, 1030), (16, 108), (9, 147)].into_iter().enumerate() {
        let levels = Levels::new(2 + i as u32, i % 2 == 0);
        let count = groups * inner;
        let first = states.len() / 4;
        states
            .extend_from_slice(&test_state(QuantizerState { bits: levels.bits, signed: levels.signed }, groups, i as u64, i > 2).to_f32());
        let start = CodeBlock { source: arena.len(), count, element: 0, inner, states: [first, first + groups - 1], levels, values };
        blocks.extend(start.all().map(Some));
        blocks.push(None);
        let reach = 0.15 * (1 << levels.bits) as f32;
        arena.extend(noise([count], i as u64).to_f32().iter().map(|v| v * reach));
        arena.resize(arena.len().next_multiple_of(4), 7.0);
        values += count.next_multiple_of(4);
    }
    let inputs = vec![Host::f32([arena.len()], arena), Host::f32([states.len() / 4, 4], states), CodeBlock::table(&blocks)];
    let case = |to, tolerance| Case::new(ArenaCodes { values, to }, inputs.clone(), tolerance);
    vec![case(DType::F32, Tolerance::EXACT), case(DType::F16, Tolerance::of(1e-3))]
}
