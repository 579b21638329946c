//! Attention on codes: the products of [`heads`](super::heads) with the integers that quantizers give.
//!
//! Every operand is codes i8 with a state f32 `[h, 4]` of its quantizer: one step size alpha and stored zero z for each head.
//!
//! - [`IntegerScores`]: `y[b, h, n, s] = scale · alpha_q · alpha_k · Σ_c (q[b, n, c] − z_q) · (k[b, s, c] − z_k)` over the channels of head h,
//!   with SMCA's [`prior`] added if asked for.
//! - [`IntegerMix`]: `y[b, n, c] = alpha_p · alpha_v · Σ_s (p[b, h, n, s] − z_p) · (v[b, s, c] − z_v)`, or the codes of that.
//!
//! Shapes: q `[B, N, C]`, k and v `[B, S, C]`, map p `[B, h, N, S]`, all i8; y in f32 or f16. A map may be padded: its rows are then
//! `padded` columns long, so that they are read and written in whole vectors, of which the first S count. **Exactness**: the sum is an exact integer,
//! rounded once to f32 and multiplied once with a factor that is rounded itself: the same bits from the twins, all kernels
//! and all devices. Dropout has its place before the map's quantizer: softmax, dropout, quantize, mix.
//!
//! Gradients are those of the values that the codes stand for, by [products](super::head_values) that read the codes. Saved for
//! backward: the codes, a byte each. The states get theirs from the quantizers.

use super::head_product::HeadProduct;
use super::head_values::HeadValues;
use super::heads::{Behind, Mix, Scores, scale};
use super::prior::{self, PriorBackward};
use super::quantize::{Levels, Quantize};
use crate::gpu::{Capabilities, Dispatch};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use std::sync::Arc;

/// Tokens or maps as codes, with the state f32 `[h, 4]` of their quantizer.
#[derive(Clone, Copy, Debug)]
pub struct HeadCodes {
    /// i8.
    pub codes: Var,
    /// f32 `[h, 4]`.
    pub state: Var,
}

/// The length of padded rows of maps with so many keys: a vector of 16 bytes holds as many codes.
pub(crate) fn padded(keys: usize) -> usize {
    keys.next_multiple_of(16)
}

/// Products of every query with every key, on codes; see the module.
#[derive(Clone, Copy, Debug)]
pub struct IntegerScores {
    /// Number of heads.
    pub heads: usize,
    /// Factor of the products.
    pub scale: f32,
    /// The Gaussian prior is added; the keys form rows of this many cells.
    pub prior: Option<usize>,
    /// Element type of the result.
    pub to: DType,
    /// The rows of the result are padded, with the scores of keys that are zero. It appears when graphs are fused.
    pub padded: bool,
}

/// Tokens weighted by a map, on codes; see the module.
#[derive(Clone, Copy, Debug)]
pub struct IntegerMix {
    /// Number of heads.
    pub heads: usize,
    /// Element type of the result.
    pub to: DType,
    /// The quantizer of the result, of one step size: its codes are the result, in place of floats. Its state is one more input. It
    /// appears when graphs are fused.
    pub codes: Option<Levels>,
}

/// Terms of a sum that stays within 31 bits whatever the codes are.
const MOST_TERMS: usize = (i32::MAX / (255 * 255)) as usize;

/// The output of the op for floats on the values that two tensors of codes stand for, in the type `to`.
#[track_caller]
fn outputs_of(floats: &impl Op, name: &str, heads: usize, inputs: &[TensorType], to: DType) -> Vec<TensorType> {
    let state = TensorType::f32([heads.max(1), 4]);
    let fits = inputs.len() >= 4 && inputs[..2].iter().all(|t| t.dtype == DType::I8) && inputs[2..4] == [state, state] && to.is_float();
    assert!(fits, "{name}: wants two tensors of codes i8 and their states {state}, found {}", ids(inputs));
    floats.outputs(&[&[inputs[0].with_dtype(to), inputs[1].with_dtype(to)], &inputs[4..]].concat())
}

/// The factor of a head's sums.
fn factor(inputs: &[&Host], head: usize, scale: f32) -> f32 {
    inputs[2].to_f32()[4 * head] * inputs[3].to_f32()[4 * head] * scale
}

/// The stored zeros of a head.
fn zeros(inputs: &[&Host], head: usize) -> [i32; 2] {
    [2, 3].map(|i| inputs[i].to_f32()[4 * head + 3] as i32)
}

impl IntegerScores {
    fn floats(self) -> Scores {
        Scores { heads: self.heads, scale: self.scale, behind: self.prior.map_or(Behind::Nothing, Behind::Prior) }
    }

    fn product(self, inputs: &[TensorType], outputs: &[TensorType]) -> HeadProduct {
        self.floats().product(inputs, outputs)
    }
}

impl Op for IntegerScores {
    fn name(&self) -> &'static str {
        "integer_scores"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let outputs = outputs_of(&self.floats(), self.name(), self.heads, inputs, self.to);
        let depth = inputs[0].shape.last() / self.heads;
        assert!(depth <= MOST_TERMS, "integer_scores: heads of {depth} channels; sums of more than {MOST_TERMS} leave 31 bits");
        let [batch, heads, n, s] = outputs[0].shape.bhwc();
        vec![TensorType::new([batch, heads, n, if self.padded { padded(s) } else { s }], self.to)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let ([_, n, channels], [_, s, _]) = (inputs[0].shape().blc(), inputs[1].shape().blc());
        let (q, k, depth) = (inputs[0].as_i8(), inputs[1].as_i8(), channels / self.heads);
        let mut y = Vec::with_capacity(outputs[0].shape.len());
        for row in 0..outputs[0].shape.rows() {
            let (query, head, image) = (row % n, row / n % self.heads, row / (n * self.heads));
            let ([z_q, z_k], factor) = (zeros(inputs, head), factor(inputs, head, self.scale));
            let q = &q[(image * n + query) * channels + head * depth..][..depth];
            let padding = outputs[0].shape.last() - s;
            let mut scores: Vec<f32> = (0..s)
                .map(|key| {
                    let k = &k[(image * s + key) * channels + head * depth..][..depth];
                    let sum: i32 = q.iter().zip(k).map(|(&q, &k)| (i32::from(q) - z_q) * (i32::from(k) - z_k)).sum();
                    sum as f32 * factor
                })
                .chain(std::iter::repeat_n(0.0, padding))
                .collect();
            if let Some(columns) = self.prior {
                let at = ((image * n + query) * self.heads + head) * 2;
                let [centre, inverse_width] = [4, 5].map(|i| inputs[i].to_f32());
                prior::add(&mut scores, &centre[at..at + 2], &inverse_width[at..at + 2], columns, self.to);
            }
            y.extend(scores);
        }
        vec![Host::from_f32(outputs[0], y)]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], device: &Capabilities) -> Vec<Dispatch> {
        self.product(inputs, outputs).kernels(device)
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], wanted: &[bool]) -> Vec<Option<Var>> {
        let mut gradients = vec![None; io.inputs.len()];
        let Some(d_y) = d_outputs[0] else { return gradients };
        let [q, k, q_state, k_state] = [0, 1, 2, 3].map(|i| io.inputs[i]);
        let mix = |transposed| Mix { heads: self.heads, scale: self.scale, transposed, dropout: None };
        gradients[0] = wanted[0].then(|| graph.apply(HeadValues::tokens_of_mix(mix(false)), &[d_y, k, k_state]));
        gradients[1] = wanted[1].then(|| graph.apply(HeadValues::tokens_of_mix(mix(true)), &[d_y, q, q_state]));
        if let Some(columns) = self.prior
            && (wanted[4] || wanted[5])
        {
            let points = graph.apply_all(Arc::new(PriorBackward { columns }), &[d_y, io.inputs[4], io.inputs[5]]);
            gradients[4] = Some(points[0]);
            gradients[5] = Some(points[1]);
        }
        gradients
    }

    fn operations(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        self.product(inputs, outputs).operations()
    }
}

impl IntegerMix {
    fn floats(self) -> Mix {
        Mix { heads: self.heads, scale: 1.0, transposed: false, dropout: None }
    }

    fn product(self, inputs: &[TensorType], outputs: &[TensorType]) -> HeadProduct {
        let product = self.floats().product(inputs, &[outputs[0].with_dtype(self.to)]);
        let [m, n, _] = product.extents;
        HeadProduct { codes: self.codes, extents: [m, n, inputs[1].shape.blc()[1]], ..product }
    }

    /// The operands as if the map was not padded.
    fn without_padding(inputs: &[TensorType]) -> Vec<TensorType> {
        let mut operands = inputs.to_vec();
        if let ([batch, heads, n, pitch], &[_, keys, _]) = (inputs[0].shape.dims(), inputs[1].shape.dims())
            && *pitch == padded(keys)
        {
            operands[0] = TensorType::new([*batch, *heads, *n, keys], inputs[0].dtype);
        }
        operands
    }

    /// The same with the quantizer behind it: where heads fill whole words of codes.
    pub(crate) fn with_codes(self, channels: usize, levels: Levels) -> Option<Self> {
        let suits = (channels / self.heads).is_multiple_of(4) && self.codes.is_none();
        suits.then_some(Self { codes: Some(levels), ..self })
    }
}

impl Op for IntegerMix {
    fn name(&self) -> &'static str {
        "integer_mix"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let (operands, behind) = inputs.split_at(inputs.len().saturating_sub(usize::from(self.codes.is_some())));
        let operands = Self::without_padding(operands);
        let y = outputs_of(&self.floats(), self.name(), self.heads, &operands, self.to)[0];
        let keys = operands[0].shape.last();
        assert!(keys <= MOST_TERMS, "integer_mix: {keys} keys; sums of more than {MOST_TERMS} leave 31 bits");
        if self.codes.is_none() {
            return vec![y];
        }
        let fits = (y.shape.last() / self.heads).is_multiple_of(4) && behind == [TensorType::f32([1, 4])];
        assert!(fits, "integer_mix: to give codes it wants heads of a multiple of 4 channels and a state f32[1, 4], found {}", ids(inputs));
        vec![y.with_dtype(DType::I8)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let ([_, heads, n, pitch], [_, s, channels]) = (inputs[0].shape().bhwc(), inputs[1].shape().blc());
        let (p, v, depth) = (inputs[0].as_i8(), inputs[1].as_i8(), channels / heads);
        let mut y = Vec::with_capacity(outputs[0].shape.len());
        for row in 0..outputs[0].shape.len() / depth {
            let (head, query, image) = (row % heads, row / heads % n, row / (heads * n));
            let ([z_p, z_v], factor) = (zeros(inputs, head), factor(inputs, head, 1.0));
            let map = &p[((image * heads + head) * n + query) * pitch..][..s];
            let mut sums = vec![0i32; depth];
            for (key, &p) in map.iter().enumerate() {
                let v = &v[(image * s + key) * channels + head * depth..][..depth];
                sums.iter_mut().zip(v).for_each(|(sum, &v)| *sum += (i32::from(p) - z_p) * (i32::from(v) - z_v));
            }
            y.extend(sums.into_iter().map(|sum| sum as f32 * factor));
        }
        let y = Host::from_f32(outputs[0].with_dtype(self.to), y);
        let Some(Levels { bits, signed }) = self.codes else { return vec![y] };
        Quantize { bits, signed, inner: 1 }.reference(&[&y, inputs[4]], outputs)
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], device: &Capabilities) -> Vec<Dispatch> {
        self.product(inputs, outputs).kernels(device)
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], wanted: &[bool]) -> Vec<Option<Var>> {
        let mut gradients = vec![None; io.inputs.len()];
        let Some(d_y) = d_outputs[0] else { return gradients };
        let [p, v, p_state, v_state] = [0, 1, 2, 3].map(|i| io.inputs[i]);
        let scores = Scores { heads: self.heads, scale: 1.0, behind: Behind::Nothing };
        let mix = Mix { transposed: true, ..self.floats() };
        gradients[0] = wanted[0].then(|| graph.apply(HeadValues::keys_of_scores(scores), &[d_y, v, v_state]));
        gradients[1] = wanted[1].then(|| graph.apply(HeadValues::map_of_mix(mix), &[p, d_y, p_state]));
        gradients
    }

    fn operations(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        self.product(inputs, outputs).operations()
    }
}

/// `q kᵀ / √d` for each of `heads` heads, in floats `to`: q `[B, N, C]`, k `[B, S, C]` to `[B, h, N, S]`.
#[track_caller]
pub fn scores(g: &mut Graph, q: HeadCodes, k: HeadCodes, heads: usize, to: DType) -> Var {
    let op = IntegerScores { heads, scale: scale(g, q.codes, heads), prior: None, to, padded: false };
    g.apply(op, &[q.codes, k.codes, q.state, k.state])
}

/// [`scores`] plus SMCA's Gaussian, as in [`scores_with_prior`](super::heads::scores_with_prior).
#[track_caller]
pub fn scores_with_prior(g: &mut Graph, [q, k]: [HeadCodes; 2], heads: usize, to: DType, columns: usize, points: [Var; 2]) -> Var {
    let op = IntegerScores { heads, scale: scale(g, q.codes, heads), prior: Some(columns), to, padded: false };
    g.apply(op, &[q.codes, k.codes, q.state, k.state, points[0], points[1]])
}

/// `p v` for each head, in floats `to`: a map p `[B, h, N, S]` and v `[B, S, C]` to `[B, N, C]`.
#[track_caller]
pub fn mix(g: &mut Graph, p: HeadCodes, v: HeadCodes, to: DType) -> Var {
    let heads = g.shape(p.codes).bhwc()[1];
    g.apply(IntegerMix { heads, to, codes: None }, &[p.codes, v.codes, p.state, v.state])
}

/// Codes of all values, or at one end of them: `share` of 1 or less.
pub(super) fn test_codes(shape: impl AsRef<[usize]>, share: f32, seed: u64) -> Host {
    let code = |v: &f32| (127.5 - share * (127.5 + 128.0 * v)).round() as i8;
    Host::i8(&shape, noise(&shape, seed).to_f32().iter().map(code).collect())
}

/// States of step sizes around `alpha` and stored zeros over the whole range, or one of them.
pub(super) fn test_state(heads: usize, alpha: f32, zero: Option<f32>, seed: u64) -> Host {
    let one = |v: &f32| [alpha * (1.0 + 0.3 * v), 0.0, 0.0, zero.unwrap_or_else(|| (v * 127.0).round())];
    Host::f32([heads, 4], noise([heads], seed).to_f32().iter().flat_map(one).collect())
}

/// Cases of the op table: B, N, S, heads, d.
pub fn cases() -> Vec<Case> {
    // One of each; primes; heads that do not fill words; DETR's, encoder and decoder; sums of several parts, on each tile; one
    // query or key.
    let shapes = [
        [1, 1, 1, 1, 1],
        [1, 1, 1, 2, 4],
        [2, 7, 11, 3, 8],
        [1, 65, 66, 2, 20],
        [3, 5, 67, 2, 7],
        [2, 33, 68, 4, 32],
        [1, 100, 850, 8, 32],
        [1, 70, 3, 2, 65],
        [2, 1, 300, 2, 16],
        [1, 9, 1030, 1, 33],
        [1, 5, 6, 1, 300],
        [1, 300, 1, 2, 4],
        [1, 66, 76, 2, 64],
        [1, 40, 1100, 2, 32],
        [1, 33, 601, 1, 40],
        [4400, 3, 5, 16, 2],
        [1, 34, 70, 2, 32],
    ];
    shapes.into_iter().enumerate().flat_map(|(i, shape)| cases_of(shape, i as u64)).collect()
}

fn cases_of([b, n, s, heads, d]: [usize; 5], i: u64) -> Vec<Case> {
    // Every third time all terms have one sign and nearly the largest size: sums that f32 does not hold.
    let (share, zero) = if i.is_multiple_of(3) { (0.1, Some(-128.0)) } else { (1.0, None) };
    let [q, k, v] = [(n, 1), (s, 2), (s, 3)].map(|(length, seed)| test_codes([b, length, heads * d], share, 10 * i + seed));
    let map = test_codes([b, heads, n, s], share, 10 * i);
    let states = [1, 2].map(|seed| test_state(heads, 0.02, zero, 10 * i + seed));
    let columns = (1..=s.min(40)).rev().find(|&c| s.is_multiple_of(c)).unwrap_or(1);
    let points = prior::test_points([b, n, heads], columns, s / columns, i);
    let scale = 1.0 / (d as f32).sqrt();
    let mut cases = Vec::new();
    for (to, exact, with_prior) in
        [(DType::F32, Tolerance::EXACT, Tolerance::of(4e-6)), (DType::F16, Tolerance::of(1e-3), Tolerance::of(2e-3))]
    {
        let scores = |prior| IntegerScores { heads, scale, prior, to, padded: false };
        let inputs = |a: &Host, b: &Host| vec![a.clone(), b.clone(), states[0].clone(), states[1].clone()];
        let [plain, with] = [inputs(&q, &k), [inputs(&q, &k), points.to_vec()].concat()];
        let padded_scores = |prior| IntegerScores { padded: true, ..scores(prior) };
        cases.push(Case::new(padded_scores(None), plain.clone(), exact));
        cases.push(Case::new(scores(None), plain, exact));
        cases.push(Case::new(padded_scores(Some(columns)), with.clone(), with_prior));
        cases.push(Case::new(scores(Some(columns)), with, with_prior));
        let mix = IntegerMix { heads, to, codes: None };
        cases.push(Case::new(mix, inputs(&map, &v), exact));
        // What is in the padding does not count.
        let padded_map = test_codes([b, heads, n, padded(s)], share, 10 * i + 4);
        cases.push(Case::new(mix, inputs(&padded_map, &v), exact));
        let levels = Levels::new(4, i.is_multiple_of(2));
        // In f32 alone: nothing among the inputs and outputs would say that the case needs f16.
        if let Some(mix) = mix.with_codes(heads * d, levels).filter(|_| to == DType::F32) {
            let state = Host::f32([1, 4], vec![4.0, 0.25, 1.0, if levels.signed { 1.0 } else { -7.0 }]);
            cases.push(Case::new(mix, [inputs(&padded_map, &v), vec![state.clone()]].concat(), Tolerance::EXACT));
            cases.push(Case::new(mix, [inputs(&map, &v), vec![state]].concat(), Tolerance::EXACT));
        }
    }
    // f16 changes only how results are stored.
    if b > 1000 {
        cases.truncate(1);
    } else if i % 3 != 1 {
        cases.retain(|case| !case.needs_f16());
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Values, interpret};
    use crate::kernels::quantize::{Levels, dequantize, quantize, quantizer_state};
    use crate::kernels::softmax::softmax;
    use crate::kernels::{binary, heads, reduce};
    use crate::tensor::compare::compare;

    const HEADS: usize = 3;

    /// A tensor of the graph, its codes, and its gradient.
    struct Operand {
        codes: HeadCodes,
        inner: usize,
    }

    impl Operand {
        fn new(g: &mut Graph, x: Var, signed: bool, inner: usize) -> Self {
            let steps = |v: f32| Host::f32([HEADS], [0.9, 1.0, 1.3].map(|f| f * v).to_vec());
            let alpha = g.constant(steps(if signed { 0.01 } else { 0.002 }));
            let zp = signed.then(|| g.constant(steps(7.0)));
            let levels = Levels::new(8, signed);
            let state = quantizer_state(g, alpha, zp, levels);
            Self { codes: HeadCodes { codes: quantize(g, x, state, levels, inner), state }, inner }
        }

        fn values(&self, g: &mut Graph) -> Var {
            dequantize(g, self.codes.codes, self.codes.state, self.inner, DType::F32)
        }
    }

    /// Quantized attention on integers, or on the values that they stand for; with the gradients of q, k, v and the points.
    fn attention(on_integers: bool) -> Graph {
        let mut g = Graph::new();
        let [q, k, v] = [("q", 5), ("k", 8), ("v", 8)].map(|(name, l)| g.input(name, TensorType::f32([2, l, 12])));
        let points = ["centre", "width"].map(|name| g.input(name, TensorType::f32([2, 5, HEADS, 2])));
        let [a, b, c] = [q, k, v].map(|x| Operand::new(&mut g, x, true, 4));
        let s = if on_integers {
            scores_with_prior(&mut g, [a.codes, b.codes], HEADS, DType::F32, 4, points)
        } else {
            let operands = [a.values(&mut g), b.values(&mut g)];
            heads::scores_with_prior(&mut g, operands, HEADS, 4, points)
        };
        let p = softmax(&mut g, s, None);
        let p = Operand::new(&mut g, p, false, 40);
        let y = if on_integers {
            mix(&mut g, p.codes, c.codes, DType::F32)
        } else {
            let operands = [p.values(&mut g), c.values(&mut g)];
            heads::mix(&mut g, operands[0], operands[1], None)
        };
        let weights = g.constant(noise([2, 5, 12], 77));
        let products = binary::mul(&mut g, y, weights);
        let loss = reduce::total(&mut g, products);
        let gradients = g.backward(loss, &[q, k, v, points[0], points[1]]);
        g.output("scores", s);
        g.output("y", y);
        for (name, gradient) in ["d_q", "d_k", "d_v", "d_centre", "d_width"].into_iter().zip(gradients) {
            g.output(name, gradient.expect("a gradient"));
        }
        g
    }

    #[test]
    fn integers_and_the_values_they_stand_for_give_the_same_attention_and_gradients() {
        let points = prior::test_points([2, 5, HEADS], 4, 2, 9);
        let mut inputs: Values = [("q", 5), ("k", 8), ("v", 8)].map(|(name, l)| (name.to_owned(), noise([2, l, 12], l as u64))).into();
        inputs.extend(["centre", "width"].map(str::to_owned).into_iter().zip(points));
        let [integers, floats] = [true, false].map(|on_integers| interpret(&attention(on_integers), &inputs, &Values::new()));
        for (name, found) in &integers {
            let largest = found.to_f32().iter().fold(0f32, |a, v| a.max(v.abs()));
            assert!(largest > 1e-3, "{name} is {largest} at most");
            compare(found, &floats[name], Tolerance { absolute: 1e-5 * largest.max(0.1), relative: 1e-5 })
                .unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }

    #[test]
    #[should_panic(expected = "leave 31 bits")]
    fn sums_that_would_overflow_are_refused() {
        let (codes, state) = (|shape: &[usize]| TensorType::new(shape, DType::I8), TensorType::f32([1, 4]));
        let op = IntegerMix { heads: 1, to: DType::F32, codes: None };
        op.outputs(&[codes(&[1, 1, 1, 33_026]), codes(&[1, 33_026, 1]), state, state]);
    }

    #[test]
    #[should_panic(expected = "their states f32[2, 4]")]
    fn states_of_another_number_of_heads_are_refused() {
        let (codes, state) = (TensorType::new([1, 3, 4], DType::I8), TensorType::f32([1, 4]));
        IntegerScores { heads: 2, scale: 1.0, prior: None, to: DType::F32, padded: false }.outputs(&[codes, codes, state, state]);
    }
}
