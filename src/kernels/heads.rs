//! Multi-head attention in parts that have gradients: the products of a head, on tokens and maps as they lie in memory.
//!
//! - [`Scores`]: two tokens' product, `y[b, h, n, s] = scale · Σ_c q[b, n, c] · k[b, s, c]` over the channels c of head h,
//!   `h·d .. (h+1)·d` with `d = C / heads`, as in PyTorch's `MultiheadAttention` after its projections.
//! - [`Mix`]: tokens weighted by a map, `y[b, n, c] = scale · Σ_s p[b, h, n, s] · v[b, s, c]`, or by the transposed map.
//!
//! Shapes: q `[B, N, C]`, k and v `[B, S, C]`, map `[B, h, N, S]`. The gradients are ops of the same family. Both can drop
//! elements of the map ([`Dropout`], with the seed as a third input): attention's dropout costs no pass over memory and
//! nothing stored. Scores can have SMCA's Gaussian [`super::prior`] added: inputs 2 and 3 are then the centres and
//! inverse widths, f32 `[B, N, h, 2]`, and the S keys are the cells of a grid, row by row.

use super::dropout::{Dropout, seed_type};
use super::head_product::{Extra, HeadProduct, Operand};
use super::linear::dot;
use super::prior::{self, PriorBackward};
use crate::gpu::{Capabilities, Dispatch};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{Host, TensorType};
use rayon::prelude::*;
use std::sync::Arc;

/// What happens to scores behind the product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Behind {
    /// Nothing.
    Nothing,
    /// Some are dropped: the gradient of a [`Mix`] that drops.
    Dropout(Dropout),
    /// The Gaussian prior is added; the keys form rows of this many cells.
    Prior(usize),
}

/// Products of every query with every key: see the module.
#[derive(Clone, Copy, Debug)]
pub struct Scores {
    /// Number of heads.
    pub heads: usize,
    /// Factor of the products.
    pub scale: f32,
    /// What happens to them.
    pub behind: Behind,
}

/// Tokens weighted by a map: see the module.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Number of heads.
    pub heads: usize,
    /// Factor of the sums.
    pub scale: f32,
    /// Whether the sums run over the map's rows: `y[b, s, c] = scale · Σ_n p[b, h, n, s] · x[b, n, c]`.
    pub transposed: bool,
    /// What is dropped from the map before.
    pub dropout: Option<Dropout>,
}

impl Scores {
    pub(super) fn product(self, inputs: &[TensorType], outputs: &[TensorType]) -> HeadProduct {
        let ([batch, n, channels], [_, s, _]) = (inputs[0].shape.blc(), inputs[1].shape.blc());
        HeadProduct {
            batch,
            heads: self.heads,
            extents: [n, s, channels / self.heads],
            left: Operand::tokens(inputs[0], self.heads, true),
            right: Operand::tokens(inputs[1], self.heads, true),
            y: Operand::map(outputs[0], false),
            scale: self.scale,
            extra: match self.behind {
                Behind::Nothing => Extra::Nothing,
                Behind::Dropout(dropout) => Extra::DropY(dropout),
                Behind::Prior(columns) => Extra::Prior(columns),
            },
            codes: None,
        }
    }
}

impl Op for Scores {
    fn name(&self) -> &'static str {
        "scores"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let (q, k) = (inputs[0], inputs[1]);
        let ([batch, n, channels], [_, s, _]) = (q.shape.blc(), k.shape.blc());
        let points = TensorType::f32([batch, n, self.heads.max(1), 2]);
        let rest: &[TensorType] = match self.behind {
            Behind::Nothing => &[],
            Behind::Dropout(_) => &[seed_type()],
            Behind::Prior(columns) => {
                assert!(prior::is_grid(s, columns), "scores: {s} keys are no grid {columns} wide");
                &[points, points]
            }
        };
        let fits = divides(self.heads, channels) && q.dtype.is_float() && k == TensorType::new([batch, s, channels], q.dtype);
        let want = "wants floats q [B, N, C] and k [B, S, C], heads that divide C, and what the mode needs";
        assert!(fits && inputs[2..] == *rest, "scores: {want}, found {self:?}, {}", ids(inputs));
        vec![TensorType::new([batch, self.heads, n, s], q.dtype)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let ([_, n, channels], [_, s, _]) = (inputs[0].shape().blc(), inputs[1].shape().blc());
        let (q, k, depth) = (inputs[0].to_f32(), inputs[1].to_f32(), channels / self.heads);
        let mut y = vec![0.0; outputs[0].shape.len()];
        y.par_chunks_mut(s).enumerate().for_each(|(row, y)| {
            let (query, head, image) = (row % n, row / n % self.heads, row / (n * self.heads));
            let q = &q[(image * n + query) * channels + head * depth..][..depth];
            for (key, y) in y.iter_mut().enumerate() {
                *y = self.scale * dot(q, &k[(image * s + key) * channels + head * depth..][..depth]);
            }
            if let Behind::Prior(columns) = self.behind {
                let at = ((image * n + query) * self.heads + head) * 2;
                let [centre, inverse_width] = [2, 3].map(|i| inputs[i].to_f32());
                prior::add(y, &centre[at..at + 2], &inverse_width[at..at + 2], columns, outputs[0].dtype);
            }
        });
        if let Behind::Dropout(dropout) = self.behind {
            let factor = dropout.factors(inputs[2].as_u32()[0]);
            y.iter_mut().enumerate().for_each(|(i, y)| *y *= factor(i));
        }
        vec![Host::from_f32(outputs[0], y)]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], device: &Capabilities) -> Vec<Dispatch> {
        self.product(inputs, outputs).kernels(device)
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], wanted: &[bool]) -> Vec<Option<Var>> {
        let mut gradients = vec![None; io.inputs.len()];
        let Some(d_y) = d_outputs[0] else { return gradients };
        let (q, k) = (io.inputs[0], io.inputs[1]);
        let (dropout, seed) = match self.behind {
            Behind::Dropout(dropout) => (Some(dropout), Some(io.inputs[2])),
            _ => (None, None),
        };
        let back = |transposed| Mix { heads: self.heads, scale: self.scale, transposed, dropout };
        let mut mix = |transposed, x| graph.apply(back(transposed), &[d_y, x].into_iter().chain(seed).collect::<Vec<_>>());
        gradients[0] = wanted[0].then(|| mix(false, k));
        gradients[1] = wanted[1].then(|| mix(true, q));
        if let Behind::Prior(columns) = self.behind
            && (wanted[2] || wanted[3])
        {
            let points = graph.apply_all(Arc::new(PriorBackward { columns }), &[d_y, io.inputs[2], io.inputs[3]]);
            gradients[2] = Some(points[0]);
            gradients[3] = Some(points[1]);
        }
        gradients
    }

    fn operations(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        self.product(inputs, outputs).operations()
    }
}

impl Mix {
    pub(super) fn product(self, inputs: &[TensorType], outputs: &[TensorType]) -> HeadProduct {
        let [batch, heads, n, s] = inputs[0].shape.bhwc();
        let [_, _, channels] = inputs[1].shape.blc();
        let (m, k) = if self.transposed { (s, n) } else { (n, s) };
        HeadProduct {
            batch,
            heads,
            extents: [m, channels / heads, k],
            left: Operand::map(inputs[0], !self.transposed),
            right: Operand::tokens(inputs[1], heads, false),
            y: Operand::tokens(outputs[0], heads, false),
            scale: self.scale,
            extra: self.dropout.map_or(Extra::Nothing, Extra::DropLeft),
            codes: None,
        }
    }
}

impl Op for Mix {
    fn name(&self) -> &'static str {
        "mix"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let (p, x) = (inputs[0], inputs[1]);
        let ([batch, heads, n, s], [_, _, channels]) = (p.shape.bhwc(), x.shape.blc());
        let (from, to) = if self.transposed { (n, s) } else { (s, n) };
        let rest: &[TensorType] = if self.dropout.is_some() { &[seed_type()] } else { &[] };
        let fits = heads == self.heads && divides(heads, channels) && p.dtype.is_float();
        let fits = fits && x == TensorType::new([batch, from, channels], p.dtype) && inputs[2..] == *rest;
        let want = "wants a map of floats [B, h, N, S], tokens [B, S, C] ([B, N, C] when transposed), and a seed to drop";
        assert!(fits, "mix: {want}, found {self:?}, {}", ids(inputs));
        vec![TensorType::new([batch, to, channels], p.dtype)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let ([_, heads, n, s], [_, from, channels]) = (inputs[0].shape().bhwc(), inputs[1].shape().blc());
        let (mut p, x, depth) = (inputs[0].to_f32().into_owned(), inputs[1].to_f32(), channels / heads);
        if let Some(dropout) = self.dropout {
            let factor = dropout.factors(inputs[2].as_u32()[0]);
            p.iter_mut().enumerate().for_each(|(i, p)| *p *= factor(i));
        }
        let mut y = vec![0.0; outputs[0].shape.len()];
        y.par_chunks_mut(depth).enumerate().for_each(|(row, y)| {
            let to = outputs[0].shape.blc()[1];
            let (head, token, image) = (row % heads, row / heads % to, row / (heads * to));
            let map = &p[(image * heads + head) * n * s..][..n * s];
            for other in 0..from {
                let weight = self.scale * if self.transposed { map[other * s + token] } else { map[token * s + other] };
                let x = &x[(image * from + other) * channels + head * depth..][..depth];
                y.iter_mut().zip(x).for_each(|(y, x)| *y += weight * x);
            }
        });
        vec![Host::from_f32(outputs[0], y)]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], device: &Capabilities) -> Vec<Dispatch> {
        self.product(inputs, outputs).kernels(device)
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], wanted: &[bool]) -> Vec<Option<Var>> {
        let mut gradients = vec![None; io.inputs.len()];
        let Some(d_y) = d_outputs[0] else { return gradients };
        let (p, x, seed) = (io.inputs[0], io.inputs[1], io.inputs.get(2).copied());
        // The map's rows belong to the tokens that come out, its columns to those that go in, or the other way round.
        let [rows, columns] = if self.transposed { [x, d_y] } else { [d_y, x] };
        let behind = self.dropout.map_or(Behind::Nothing, Behind::Dropout);
        let scores = Scores { heads: self.heads, scale: self.scale, behind };
        let with_seed = |inputs: [Var; 2]| inputs.into_iter().chain(seed).collect::<Vec<_>>();
        gradients[0] = wanted[0].then(|| graph.apply(scores, &with_seed([rows, columns])));
        gradients[1] = wanted[1].then(|| graph.apply(Self { transposed: !self.transposed, ..*self }, &with_seed([p, d_y])));
        gradients
    }

    fn operations(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        self.product(inputs, outputs).operations()
    }
}

fn divides(heads: usize, channels: usize) -> bool {
    heads > 0 && channels.is_multiple_of(heads)
}

/// `q kᵀ / √d` for each of `heads` heads: q `[B, N, C]`, k `[B, S, C]` to `[B, h, N, S]`.
#[track_caller]
pub fn scores(g: &mut Graph, q: Var, k: Var, heads: usize) -> Var {
    g.apply(Scores { heads, scale: scale(g, q, heads), behind: Behind::Nothing }, &[q, k])
}

/// [`scores`] plus SMCA's Gaussian around `centre` (x, y) in cells, f32 `[B, N, h, 2]`, with `inverse_width` of the same type;
/// the keys are a feature map's cells, `columns` in a row.
#[track_caller]
pub fn scores_with_prior(g: &mut Graph, [q, k]: [Var; 2], heads: usize, columns: usize, [centre, inverse_width]: [Var; 2]) -> Var {
    g.apply(Scores { heads, scale: scale(g, q, heads), behind: Behind::Prior(columns) }, &[q, k, centre, inverse_width])
}

/// `1 / √d`
pub(super) fn scale(g: &Graph, q: Var, heads: usize) -> f32 {
    1.0 / ((g.shape(q).last() / heads.max(1)) as f32).sqrt()
}

/// `p v` for each head: a map p `[B, h, N, S]` and v `[B, S, C]` to `[B, N, C]`. With `dropout`, a place and the seed
/// `u32[1]`, elements of p are dropped on the way.
#[track_caller]
pub fn mix(g: &mut Graph, p: Var, v: Var, dropout: Option<(Dropout, Var)>) -> Var {
    let dropout = dropout.filter(|(dropout, _)| dropout.p > 0.0);
    let op = Mix { heads: g.shape(p).bhwc()[1], scale: 1.0, transposed: false, dropout: dropout.map(|(d, _)| d) };
    g.apply(op, &[p, v].into_iter().chain(dropout.map(|(_, seed)| seed)).collect::<Vec<_>>())
}

/// A small case that the kernels for cooperative matrices take, more than a tile in each direction.
pub(crate) fn matrix_case() -> Case {
    let op = Scores { heads: 2, scale: 0.2, behind: Behind::Nothing };
    Case::new(op, vec![noise([1, 65, 80], 1), noise([1, 70, 80], 2)], Tolerance::EXACT).in_f16(Tolerance { absolute: 2e-3, relative: 2e-3 })
}

/// Cases of the op table: B, N, S, heads, d; three of the modes for each, in turn.
pub fn cases() -> Vec<Case> {
    // One of each; primes; one past the tiles; heads of each tile width; DETR's; one query, one key; > 65,535 workgroups.
    let shapes = [
        (1, 1, 1, 1, 1),
        (1, 1, 1, 2, 4),
        (2, 7, 11, 3, 8),
        (1, 65, 66, 2, 20),
        (2, 33, 68, 4, 32),
        (1, 64, 129, 1, 36),
        (3, 5, 67, 2, 7),
        (1, 100, 850, 8, 32),
        (1, 70, 3, 2, 65),
        (2, 1, 300, 2, 16),
        (1, 300, 1, 2, 4),
        (2, 17, 24, 2, 12),
        (1, 66, 76, 2, 64),
        (4400, 3, 5, 16, 2),
    ];
    let mut cases = Vec::new();
    for (i, shape) in shapes.into_iter().enumerate() {
        let modes = all_modes(shape, i as u64 * 100);
        let huge = shape.0 > 1000;
        for turn in 0..if huge { 1 } else { 3 } {
            let case = &modes[(3 * i + turn) % modes.len()];
            if !huge && (turn == 0 || shape.1 * shape.2 < 10_000) {
                let mut half = case.in_f16(Tolerance { absolute: 2e-3, relative: 2e-3 });
                // Points stay f32.
                half.inputs[2..].clone_from_slice(&case.inputs[2..]);
                cases.push(half);
            }
            cases.push(case.clone());
        }
    }
    cases
}

fn all_modes((b, n, s, heads, d): (usize, usize, usize, usize, usize), seed: u64) -> Vec<Case> {
    let (c, scale) = (heads * d, 1.0 / (d as f32).sqrt());
    let [q, k, map] = [noise([b, n, c], seed), noise([b, s, c], seed + 1), noise([b, heads, n, s], seed + 2)];
    let dropout = Dropout { p: 0.3, salt: seed as u32 };
    let drop_seed = Host::u32([1], vec![77]);
    let columns = (1..=s.min(40)).rev().find(|&c| s.is_multiple_of(c)).unwrap_or(1);
    let points = prior::test_points([b, n, heads], columns, s / columns, seed + 3);
    // Sums of numbers below 1; the prior also squares distances.
    let close = |terms: usize| Tolerance { absolute: 2e-6 + 1e-6 * (terms as f32).sqrt(), relative: 2e-6 };
    let scores = |behind| Scores { heads, scale, behind };
    let mix = |transposed, dropout| Mix { heads, scale: 1.0, transposed, dropout };
    vec![
        Case::new(scores(Behind::Nothing), vec![q.clone(), k.clone()], close(d)),
        Case::new(scores(Behind::Dropout(dropout)), vec![q.clone(), k.clone(), drop_seed.clone()], close(d)),
        Case::new(scores(Behind::Prior(columns)), [vec![q.clone(), k.clone()], points.to_vec()].concat(), close(d)),
        Case::new(mix(false, None), vec![map.clone(), k.clone()], close(s)),
        Case::new(mix(false, Some(dropout)), vec![map.clone(), k, drop_seed.clone()], close(s)),
        Case::new(mix(true, None), vec![map.clone(), q.clone()], close(n)),
        Case::new(mix(true, Some(dropout)), vec![map, q, drop_seed], close(n)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Values, interpret};
    use crate::kernels::{attention::attention, softmax::softmax};
    use crate::tensor::compare::compare;

    #[test]
    fn the_parts_make_the_fused_attention() {
        let mut g = Graph::new();
        let [q, k, v] = [("q", 5), ("k", 7), ("v", 7)].map(|(name, l)| g.input(name, TensorType::f32([2, l, 12])));
        let s = scores(&mut g, q, k, 3);
        let p = softmax(&mut g, s, None);
        let parts = mix(&mut g, p, v, None);
        let whole = attention(&mut g, q, k, v, 3, None);
        g.output("parts", parts);
        g.output("whole", whole);
        let inputs = Values::from(["q", "k", "v"].map(|name| (name.to_owned(), noise([2, if name == "q" { 5 } else { 7 }, 12], 3))));
        let y = interpret(&g, &inputs, &Values::new());
        compare(&y["parts"], &y["whole"], Tolerance::of(1e-6)).unwrap();
    }

    #[test]
    #[should_panic(expected = "no grid 4 wide")]
    fn keys_that_do_not_fill_the_grid_are_refused() {
        let [q, points] = [TensorType::f32([1, 2, 4]), TensorType::f32([1, 2, 1, 2])];
        Scores { heads: 1, scale: 1.0, behind: Behind::Prior(4) }.outputs(&[q, TensorType::f32([1, 6, 4]), points, points]);
    }
}
