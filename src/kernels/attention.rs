//! Multi-head attention between projections, fused: `y = softmax(q kᵀ / √d + prior + mask) v` for each head.
//!
//! Shapes: q `[B, N, C]`, k and v `[B, S, C]`, mask `[B, S]` (`u32`, 1 = valid), y as q. Head h has the channels
//! `h·d .. (h+1)·d`, `d = C / heads`, as in PyTorch's `MultiheadAttention` after its projections.
//! A masked key gets exactly weight 0; a query without any valid key gets the mean of all values (PyTorch: NaN).
//! SMCA's Gaussian [`prior`], when there is one, adds centre and inverse width to the inputs, f32 `[B, N, h, 2]`.
//! For inference: the attention map never exists, so it has no gradient. Training uses [`heads`](super::heads) and
//! [`softmax`](super::softmax).

use super::prior;
use super::softmax::{softmax_row, test_mask};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;
use rayon::prelude::*;
use std::sync::Arc;

/// Workgroups that keep a large GPU busy: below that, queries are spread over more workgroups, keys over more invocations.
const ENOUGH_GROUPS: usize = 160;
/// Invocations of a workgroup of the tiled kernel.
const THREADS: usize = 256;
/// Invocations of a workgroup of the plain kernel.
const PLAIN_GROUP: usize = 64;

/// Attention of q, k, v, maybe a mask, and what the prior needs.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Number of heads.
    pub heads: usize,
    /// With the Gaussian prior; the keys form rows of this many cells.
    pub prior: Option<usize>,
}

/// Sizes of one attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) depth: usize,
}

impl Sizes {
    /// Of queries, keys and values `[B, L, C]`.
    pub(super) fn of(inputs: &[TensorType], heads: usize) -> Self {
        let [batch, queries, channels] = inputs[0].shape.blc();
        Self { batch, queries, keys: inputs[1].shape.blc()[1], depth: channels / heads }
    }
}

impl Attention {
    fn sizes(self, inputs: &[TensorType]) -> Sizes {
        Sizes::of(inputs, self.heads)
    }

    /// The kernel for heads of 4, 8 .. 64 channels.
    fn tiled(self, inputs: &[TensorType]) -> Option<Dispatch> {
        let Sizes { batch, queries, keys, depth } = self.sizes(inputs);
        let fits = depth.is_multiple_of(4) && depth <= 64 && batch <= 65_535 && self.heads <= 65_535;
        if !fits {
            return None;
        }
        // 16 KiB of workgroup memory hold this many keys and values beside what joining needs.
        let tile = if depth <= 32 { 32 } else { 16 };
        let groups = |queries_a_group: usize| batch * self.heads * queries.div_ceil(queries_a_group);
        let splits = [8, 16, 32].into_iter().filter(|&s| s <= tile);
        let splits = splits.clone().find(|s| groups(THREADS / s) >= ENOUGH_GROUPS).or(splits.max())?;
        let queries_a_group = THREADS / splits;
        if queries.div_ceil(queries_a_group) > 65_535 {
            return None;
        }
        let scale = 1.0 / (depth as f32).sqrt() * std::f32::consts::LOG2_E;
        let dispatch = self
            .common(Dispatch::new(wgsl!("attention/tiled.wgsl"), 4), inputs)
            .constant("QUERIES", queries_a_group)
            .constant("SPLITS", splits)
            .constant("KEYS", tile)
            .constant("DEPTH", depth / 4)
            .params(self.grid(Words::of([queries, keys, self.heads * depth / 4]).float(scale)))
            .over_grid([queries.div_ceil(queries_a_group), self.heads, batch]);
        Some(dispatch)
    }

    /// The kernel for heads of any size.
    fn plain(self, inputs: &[TensorType]) -> Dispatch {
        let Sizes { batch, queries, keys, depth } = self.sizes(inputs);
        self.common(Dispatch::new(wgsl!("attention/rows.wgsl"), 4), inputs)
            .constant("GROUP", PLAIN_GROUP)
            .constant("LANES", PLAIN_GROUP)
            .constant("CHANNELS", depth.div_ceil(PLAIN_GROUP))
            .params(self.grid(Words::of([batch, queries, keys, self.heads, depth]).float(1.0 / (depth as f32).sqrt())))
            .over_groups(batch * queries * self.heads)
    }

    fn common(self, dispatch: Dispatch, inputs: &[TensorType]) -> Dispatch {
        let mask = self.mask(inputs.len());
        let points = self.prior.map_or([0, 0], |_| [inputs.len() - 2, inputs.len() - 1]);
        let bindings = [0, 1, 2, mask.unwrap_or(0), points[0], points[1]];
        dispatch.element("element", inputs[0].dtype).flag("HAS_MASK", mask.is_some()).flag("PRIOR", self.prior.is_some()).bind(bindings)
    }

    /// The words `columns` and `inverse_columns`.
    fn grid(self, words: Words) -> Words {
        let columns = self.prior.unwrap_or(1);
        words.word(columns as u32).float(1.0 / columns as f32)
    }

    /// Which of so many inputs is the mask.
    fn mask(self, inputs: usize) -> Option<usize> {
        let points = if self.prior.is_some() { 2 } else { 0 };
        (inputs == 4 + points).then_some(3)
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let points = if self.prior.is_some() { 2 } else { 0 };
        let number = (3..=4).contains(&inputs.len().wrapping_sub(points));
        assert!(number, "attention: wants q, k, v, maybe a mask, and two points for a prior, found {}", ids(inputs));
        let (q, k) = (inputs[0], inputs[1]);
        let ([batch, queries, channels], [_, keys, _]) = (q.shape.blc(), k.shape.blc());
        let fits = self.heads > 0
            && channels.is_multiple_of(self.heads)
            && q.dtype.is_float()
            && k == TensorType::new([batch, keys, channels], q.dtype)
            && inputs[2] == k
            && self.mask(inputs.len()).is_none_or(|i| inputs[i] == TensorType::new([batch, keys], DType::U32));
        let want = "wants q [B, N, C], k and v [B, S, C], maybe a mask u32[B, S], and heads that divide C";
        assert!(fits, "attention: {want}, found {} heads, {}", self.heads, ids(inputs));
        if let Some(columns) = self.prior {
            let point = TensorType::f32([batch, queries, self.heads, 2]);
            let fits = prior::is_grid(keys, columns) && inputs[inputs.len() - 2..] == [point, point];
            assert!(fits, "attention: wants a prior of two {point} and keys in rows of {columns}, found {}", ids(inputs));
        }
        vec![q]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let types: Vec<TensorType> = inputs.iter().map(|h| h.ty()).collect();
        let Sizes { queries, keys, depth, .. } = self.sizes(&types);
        let [q, k, v] = [0, 1, 2].map(|i| inputs[i].to_f32());
        let points = self.prior.map(|_| [2, 1].map(|from_end| inputs[inputs.len() - from_end].to_f32()));
        let mut y = vec![0.0; outputs[0].shape.len()];
        y.par_chunks_mut(depth).enumerate().for_each(|(row, y)| {
            let (head, batch) = (row % self.heads, row / (self.heads * queries));
            let at = |key: usize| ((batch * keys + key) * self.heads + head) * depth;
            let dot = |key: usize| q[row * depth..][..depth].iter().zip(&k[at(key)..]).map(|(q, k)| q * k).sum::<f32>();
            let mut scores: Vec<f32> = (0..keys).map(|key| dot(key) / (depth as f32).sqrt()).collect();
            if let (Some(columns), Some([centre, inverse_width])) = (self.prior, &points) {
                prior::add(&mut scores, &centre[2 * row..], &inverse_width[2 * row..], columns, DType::F32);
            }
            let mask = self.mask(inputs.len()).map(|i| &inputs[i].as_u32()[batch * keys..][..keys]);
            for (key, weight) in softmax_row(&scores, mask).into_iter().enumerate() {
                for (y, v) in y.iter_mut().zip(&v[at(key)..]) {
                    *y += weight * v;
                }
            }
        });
        vec![Host::from_f32(outputs[0], y)]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        self.tiled(inputs).into_iter().chain([self.plain(inputs)]).collect()
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        let Sizes { batch, queries, keys, depth } = self.sizes(inputs);
        4 * (batch * self.heads * queries * keys * depth) as u64
    }
}

/// `softmax(q kᵀ / √d) v` for each of `heads` heads: q `[B, N, C]`, k and v `[B, S, C]`. Keys with a 0 in `key_mask`
/// (`u32[B, S]`) take no part; a query whose keys are all masked gets the mean of all values.
pub fn attention(g: &mut Graph, q: Var, k: Var, v: Var, heads: usize, key_mask: Option<Var>) -> Var {
    let inputs: Vec<Var> = [q, k, v].into_iter().chain(key_mask).collect();
    g.apply(Attention { heads, prior: None }, &inputs)
}

/// [`attention`] with SMCA's Gaussian around `centre` (x, y) in cells, f32 `[B, N, h, 2]`, with `inverse_width` of the same type;
/// the keys are a feature map's cells, `columns` in a row.
pub fn attention_with_prior(
    g: &mut Graph,
    [q, k, v]: [Var; 3],
    heads: usize,
    key_mask: Option<Var>,
    columns: usize,
    points: [Var; 2],
) -> Var {
    let inputs: Vec<Var> = [q, k, v].into_iter().chain(key_mask).chain(points).collect();
    g.apply(Attention { heads, prior: Some(columns) }, &inputs)
}

/// Cases of the op table.
pub fn cases() -> Vec<Case> {
    // B, N, S, heads, d. One of each; primes; one past the tiles of keys and queries; each way to split the keys, at the
    // borders of the tile sizes; heads that are no multiple of 4 or too large for the tiled kernel; > 65,535 workgroups.
    let shapes = [
        (1, 1, 1, 1, 4),
        (1, 1, 1, 1, 1),
        (2, 7, 11, 3, 8),
        (2, 33, 33, 2, 32),
        (1, 100, 130, 8, 32),
        (4, 150, 33, 8, 4),
        (1, 320, 17, 8, 12),
        (2, 9, 65, 2, 64),
        (1, 5, 16, 3, 36),
        (1, 5, 67, 2, 7),
        (1, 3, 129, 1, 68),
        (1, 2, 3, 2, 130),
        (1, 70_001, 2, 1, 3),
    ];
    let mut cases = Vec::new();
    for (i, (b, n, s, heads, d)) in shapes.into_iter().enumerate() {
        let seed = 10 * i as u64;
        let loud = |host: Host| Host::f32(host.shape().dims(), host.to_f32().iter().map(|v| v * 3.0).collect());
        let c = heads * d;
        let inputs = vec![loud(noise([b, n, c], seed)), loud(noise([b, s, c], seed + 1)), noise([b, s, c], seed + 2)];
        let case = Case::new(Attention { heads, prior: None }, inputs, Tolerance::of(2e-5));
        let mut masked = case.clone();
        masked.inputs.push(test_mask(b, s, seed + 3, b > 1));
        let columns = (1..=s.min(13)).rev().find(|&c| s.is_multiple_of(c)).unwrap_or(1);
        let mut around_points = if i % 2 == 0 { masked.clone() } else { case.clone() };
        around_points.op = Arc::new(Attention { heads, prior: Some(columns) });
        around_points.inputs.extend(prior::test_points([b, n, heads], columns, s / columns, seed + 4));
        if n < 1000 {
            let mut half = around_points.in_f16(Tolerance::of(2e-3));
            let points = half.inputs.len() - 2;
            half.inputs[points..].clone_from_slice(&around_points.inputs[points..]);
            cases.extend([masked.in_f16(Tolerance::of(2e-3)), case.in_f16(Tolerance::of(2e-3)), half, masked, around_points]);
        }
        cases.push(case);
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(b: usize, n: usize, s: usize, c: usize) -> Vec<TensorType> {
        vec![TensorType::f32([b, n, c]), TensorType::f32([b, s, c]), TensorType::f32([b, s, c])]
    }

    #[test]
    fn small_problems_are_spread_over_more_workgroups() {
        let groups = |n, s| Attention { heads: 8, prior: None }.tiled(&types(1, n, s, 256)).map(|d| d.groups);
        assert_eq!(groups(850, 850), Some([27, 8, 1]));
        assert_eq!(groups(100, 850), Some([13, 8, 1]));
    }

    #[test]
    #[should_panic(expected = "found 3 heads, f32[1, 2, 8]")]
    fn heads_that_do_not_divide_the_channels_are_refused() {
        Attention { heads: 3, prior: None }.outputs(&types(1, 2, 3, 8));
    }
}
