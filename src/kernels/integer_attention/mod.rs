//! Attention on codes in one kernel, for inference: [`IntegerScores`], a [`Softmax`], the codes of the map and [`IntegerMix`], whose map is
//! never in memory.
//!
//! Shapes: q `[B, N, C]`, k and v `[B, S, C]`, all codes i8; the states of the quantizers of queries, keys, map and values, one behind
//! the other, f32 `[4 · h, 4]`; maybe a mask `[B, S]` (`u32`, 1 = valid); y `[B, N, C]` in floats or, with the state f32 `[1, 4]` of a
//! quantizer as the last input, its codes.
//!
//! **Exactness**: every number is the one that the ops have one after the other, on the same device to the bit: scores are rounded to the
//! type that a map of them would have, and the softmax adds its weights up in the same order. So training, whose backward reads
//! the maps, and what is deployed compute the same codes. It appears when graphs are fused for a device on which it is faster.

mod matrix;

use super::attention::Sizes;
use super::coded::clear_state;
use super::head_codes::{IntegerMix, IntegerScores, test_codes, test_state};
use super::head_product::{stores, width_of};
use super::quantize::{Levels, Quantize};
use super::rows::RowLayout;
use super::softmax::{Softmax, test_mask};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::Case;
use crate::graph::{Op, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

/// Attention of q, k and v on codes; see the module.
#[derive(Clone, Copy, Debug)]
pub struct IntegerAttention {
    /// Number of heads.
    pub heads: usize,
    /// Factor of the products of queries and keys.
    pub scale: f32,
    /// The quantizer of the map, which has a step size for each head.
    pub map: Levels,
    /// Element type of the result, and of what the map is made of on the way.
    pub to: DType,
    /// The quantizer of the result, of one step size: its codes are the result, in place of floats.
    pub codes: Option<Levels>,
}

/// Keys of a row whose codes lie in the workgroup memory that WebGPU guarantees, beside what its softmax needs.
const MOST_KEYS: usize = 8 << 10;

impl IntegerAttention {
    fn sizes(self, inputs: &[TensorType]) -> Sizes {
        Sizes::of(inputs, self.heads)
    }

    fn has_mask<T>(self, inputs: &[T]) -> bool {
        inputs.len() > 4 + usize::from(self.codes.is_some())
    }

    fn scores(self) -> IntegerScores {
        IntegerScores { heads: self.heads, scale: self.scale, prior: None, to: self.to, padded: false }
    }

    fn mix(self) -> IntegerMix {
        IntegerMix { heads: self.heads, to: self.to, codes: self.codes }
    }

    /// The inputs of a mix whose map and whose states are given.
    fn mix_inputs<T: Clone>(self, inputs: &[T], map: T, states: [T; 2]) -> Vec<T> {
        let [map_state, v_state] = states;
        let state = self.codes.and(inputs.last()).cloned();
        [map, inputs[2].clone(), map_state, v_state].into_iter().chain(state).collect()
    }

    /// Whether its best kernel on a device is on matrices of bytes: there it is faster than the ops one by one.
    pub(crate) fn pays(self, inputs: &[TensorType], device: &Capabilities) -> bool {
        matrix::fits(self, inputs, device)
    }

    /// Lanes of a row's softmax, and how many pieces of four columns each of them has: those of a softmax by itself.
    fn layout(self, inputs: &[TensorType]) -> (RowLayout, usize) {
        let Sizes { batch, queries, keys, .. } = self.sizes(inputs);
        let layout = RowLayout::new(TensorType::f32([batch, self.heads, queries, keys]).shape, 4);
        (layout, layout.steps(keys.next_multiple_of(4)))
    }

    /// Adds what all kernels share: parameters, bindings, and what is done with scores, map and result.
    fn finish(self, dispatch: Dispatch, inputs: &[TensorType]) -> Dispatch {
        let Sizes { batch, queries, keys, depth } = self.sizes(inputs);
        let (has_mask, rows) = (self.has_mask(inputs), self.heads * queries);
        let words = Words::of([batch * rows, keys.div_ceil(4), rows, keys, queries, self.heads, depth]).float(self.scale);
        let limits = [self.map.high(), self.map.offset()];
        let bindings = [0, if has_mask { 4 } else { 0 }, 1, 2, 3];
        let out_state = self.codes.map(|_| inputs.len() - 1);
        stores(dispatch, width_of(depth), self.to, self.codes)
            .constant("AT_Y", 6)
            .constant("STEPS", self.layout(inputs).1)
            .flag("HAS_MASK", has_mask)
            .flag("SMALL_SCORES", depth * 255 * 255 <= 1 << 22)
            .params(limits.into_iter().fold(words, |words, limit| words.float(limit as f32)))
            .bind(bindings.into_iter().chain(out_state).collect::<Vec<_>>())
            .part(wgsl!("integer_attention/params.wgsl"))
            .part(if keys.is_multiple_of(4) { wgsl!("softmax/mask_vec4.wgsl") } else { wgsl!("softmax/mask_scalar.wgsl") })
            .part(wgsl!("softmax/limits.wgsl"))
            .part(wgsl!("softmax/stored.wgsl"))
    }

    /// The kernel that runs everywhere.
    fn portable(self, inputs: &[TensorType]) -> Dispatch {
        let dispatch = Dispatch::new(wgsl!("integer_attention/rows.wgsl"), inputs.len());
        self.layout(inputs).0.apply(self.finish(dispatch, inputs).part(wgsl!("softmax/row.wgsl")))
    }
}

/// The states of queries, keys, map and values.
fn states_of(states: &Host, heads: usize) -> [Host; 4] {
    let numbers = states.to_f32();
    [0, 1, 2, 3].map(|i| Host::f32([heads, 4], numbers[i * heads * 4..][..heads * 4].to_vec()))
}

impl Op for IntegerAttention {
    fn name(&self) -> &'static str {
        "integer_attention"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let behind = usize::from(self.codes.is_some());
        let (states, state) = (TensorType::f32([4 * self.heads.max(1), 4]), TensorType::f32([self.heads.max(1), 4]));
        let fits = (4 + behind..=5 + behind).contains(&inputs.len()) && inputs[3] == states;
        let want = "wants codes of queries, keys and values, their states with the map's, maybe a mask, and a state to give codes";
        assert!(fits, "integer_attention: {want}; states {states}, found {}", ids(inputs));
        let map = self.scores().outputs(&[inputs[0], inputs[1], state, state])[0];
        let of_softmax: Vec<TensorType> = [map].into_iter().chain(self.has_mask(inputs).then(|| inputs[4])).collect();
        Softmax::default().outputs(&of_softmax);
        let keys = map.shape.last();
        assert!(keys <= MOST_KEYS, "integer_attention: {keys} keys; the codes of a row are {MOST_KEYS} at most");
        self.mix().outputs(&self.mix_inputs(inputs, map.with_dtype(DType::I8), [state, state]))
    }

    /// That of the ops, one after the other.
    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let [q_state, k_state, map_state, v_state] = states_of(inputs[3], self.heads);
        let map = self.float_map(inputs, [&q_state, &k_state]);
        let codes = self.quantizer(&map).reference(&[&map, &map_state], &[map.ty().with_dtype(DType::I8)]).remove(0);
        self.mix().reference(&self.mix_inputs(inputs, &codes, [&map_state, &v_state]), outputs)
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], device: &Capabilities) -> Vec<Dispatch> {
        matrix::kernels(*self, inputs, device).into_iter().chain([self.portable(inputs)]).collect()
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        let Sizes { batch, queries, keys, depth } = self.sizes(inputs);
        (batch * self.heads * queries * keys) as u64 * (4 * depth as u64 + 10)
    }
}

impl IntegerAttention {
    /// The map before its quantizer.
    fn float_map(self, inputs: &[&Host], states: [&Host; 2]) -> Host {
        let of_scores = [inputs[0], inputs[1], states[0], states[1]];
        let ty = self.scores().outputs(&of_scores.map(Host::ty))[0];
        let scores = self.scores().reference(&of_scores, &[ty]).remove(0);
        let of_softmax: Vec<&Host> = [&scores].into_iter().chain(self.has_mask(inputs).then(|| inputs[4])).collect();
        Softmax::default().reference(&of_softmax, &[ty]).remove(0)
    }

    fn quantizer(self, map: &Host) -> Quantize {
        let [_, _, queries, keys] = map.shape().bhwc();
        Quantize { bits: self.map.bits, signed: self.map.signed, inner: queries * keys }
    }
}

/// Cases of the op table: B, N, S, heads, d.
pub fn cases() -> Vec<Case> {
    // One of each; primes; heads that do not fill words; those of matrices of bytes: whole tiles and blocks and not, all numbers of
    // lanes, rows that are masked.
    let shapes = [
        [1, 1, 1, 1, 1],
        [1, 1, 1, 2, 4],
        [2, 7, 11, 3, 8],
        [1, 65, 66, 2, 20],
        [3, 5, 67, 2, 7],
        [2, 1, 300, 2, 16],
        [1, 5, 6, 1, 300],
        [1, 20, 1, 2, 4],
        [2, 3, 1030, 1, 33],
        [2, 16, 65, 2, 32],
        [1, 35, 100, 2, 32],
        [1, 16, 160, 1, 32],
        [2, 17, 257, 1, 32],
        [1, 18, 850, 1, 32],
        [1, 16, 600, 2, 32],
        [1, 17, 1050, 1, 32],
    ];
    shapes.into_iter().enumerate().flat_map(|(i, shape)| cases_of(shape, i as u64)).collect()
}

/// A case for the kernel on matrices of bytes: tiles and blocks that are not whole.
pub(super) fn matrix_case() -> Case {
    cases_of([1, 17, 70, 2, 32], 1).remove(0)
}

fn cases_of([b, n, s, heads, d]: [usize; 5], i: u64) -> Vec<Case> {
    // Every third time all terms have one sign and nearly the largest size.
    let (share, zero) = if i.is_multiple_of(3) { (0.1, Some(-128.0)) } else { (1.0, None) };
    let [q, k, v] = [(n, 1), (s, 2), (s, 3)].map(|(length, seed)| test_codes([b, length, heads * d], share, 10 * i + seed));
    let [q_state, k_state, v_state] = [1, 2, 3].map(|seed| test_state(heads, 0.02, zero, 10 * i + seed));
    let many = n * s > 2000;
    let map = if many { Levels::new(4, false) } else { Levels::new([4, 8, 3][i as usize % 3], i % 5 == 1) };
    let mut cases = Vec::new();
    for (to, margin, exact) in [(DType::F32, 1e-4, Tolerance::EXACT), (DType::F16, 1e-3, Tolerance::of(1e-3))] {
        let op = IntegerAttention { heads, scale: 1.0 / (d as f32).sqrt(), map, to, codes: None };
        let mask = (i % 2 == 1).then(|| test_mask(b, s, i, b > 1));
        let operands: Vec<Host> = [q.clone(), k.clone(), v.clone(), q_state.clone()].into_iter().chain(mask.clone()).collect();
        let floats = op.float_map(&operands.iter().collect::<Vec<_>>(), [&q_state, &k_state]);
        // In f16 a map's values are steps of their own, which are no ties for some.
        let map_state = clear_state(&floats, op.quantizer(&floats), heads, if many { margin / 4.0 } else { margin });
        let all: Vec<f32> = [&q_state, &k_state, &map_state, &v_state].into_iter().flat_map(|h| h.to_f32().to_vec()).collect();
        let mut inputs = vec![q.clone(), k.clone(), v.clone(), Host::f32([4 * heads, 4], all)];
        inputs.extend(mask);
        cases.push(Case::new(op, inputs.clone(), exact));
        // In f32 alone: nothing among the inputs and outputs would say that the case needs f16.
        let levels = Levels::new(4, i.is_multiple_of(2));
        if d.is_multiple_of(4) && to == DType::F32 {
            inputs.push(Host::f32([1, 4], vec![4.0, 0.25, 1.0, if levels.signed { 1.0 } else { -7.0 }]));
            cases.push(Case::new(IntegerAttention { codes: Some(levels), ..op }, inputs, Tolerance::EXACT));
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "states f32[8, 4]")]
    fn states_of_another_number_of_heads_are_refused() {
        let codes = TensorType::new([1, 3, 4], DType::I8);
        let op = IntegerAttention { heads: 2, scale: 1.0, map: Levels::new(4, false), to: DType::F32, codes: None };
        op.outputs(&[codes, codes, codes, TensorType::f32([4, 4])]);
    }
}
