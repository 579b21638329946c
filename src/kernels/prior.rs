//! SMCA's Gaussian prior: attention that starts around a point which each query predicts, for every head.
//!
//! Scores of a query get `−Σ_{x,y} ((centre − cell) · inverse_width)² / 8` added in front of the softmax, which multiplies
//! the weights by `exp(−(x − cx)² / (β wx²) − (y − cy)² / (β wy²))`, β = 8 (Gao et al., arXiv 2101.07448). `cell` is the key's
//! whole column and row in the feature map. The original code predicts `scale = inverse_width²`, takes the absolute value of
//! the sum, which is no negative number, and adds nothing else.
//!
//! [`heads::Scores`](super::heads::Scores) adds the prior where it computes scores; here are its twin and its backward.
//! In f16, scores stop at the least finite number.

use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Op, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

/// 1 / β
const SMOOTH: f32 = 0.125;
const GROUP: usize = 128;

/// Keys that the shaders can find the cells of.
const MOST_KEYS: usize = 1 << 21;

/// Whether so many keys fill rows of so many cells.
pub(super) fn is_grid(keys: usize, columns: usize) -> bool {
    columns > 0 && keys.is_multiple_of(columns) && keys < MOST_KEYS
}

/// Distances of a centre from a cell, along x and y.
fn distances(centre: &[f32], key: usize, columns: usize) -> [f32; 2] {
    [centre[0] - (key % columns) as f32, centre[1] - (key / columns) as f32]
}

/// Adds the prior to a query's scores with all keys of a grid; `dtype` is what they will be stored in.
pub(super) fn add(scores: &mut [f32], centre: &[f32], inverse_width: &[f32], columns: usize, dtype: DType) {
    let least = if dtype == DType::F16 { -65504.0 } else { f32::MIN };
    for (key, score) in scores.iter_mut().enumerate() {
        let [x, y] = distances(centre, key, columns);
        let (x, y) = (x * inverse_width[0], y * inverse_width[1]);
        *score = (*score - SMOOTH * (x * x + y * y)).max(least);
    }
}

/// `(d_scores [B, h, N, S], centre [B, N, h, 2], inverse_width [B, N, h, 2]) -> (d_centre, d_inverse_width)`, the latter all f32.
#[derive(Clone, Copy, Debug)]
pub struct PriorBackward {
    /// Cells in a row of the feature map.
    pub columns: usize,
}

impl Op for PriorBackward {
    fn name(&self) -> &'static str {
        "prior_backward"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [batch, heads, n, s] = inputs[0].shape.bhwc();
        let points = TensorType::f32([batch, n, heads, 2]);
        let fits = inputs[0].dtype.is_float() && inputs[1..] == [points, points] && is_grid(s, self.columns);
        let want = "wants d_scores [B, h, N, S] on a grid, centre and inverse width f32 [B, N, h, 2]";
        assert!(fits, "prior_backward: {want}, found {self:?}, {}", ids(inputs));
        vec![points, points]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let [_, heads, n, s] = inputs[0].shape().bhwc();
        let [d, centre, inverse_width] = [0, 1, 2].map(|i| inputs[i].to_f32());
        let mut gradients = [vec![0.0; centre.len()], vec![0.0; centre.len()]];
        for (row, d) in d.chunks(s).enumerate() {
            let (query, head, image) = (row % n, row / n % heads, row / (n * heads));
            let at = ((image * n + query) * heads + head) * 2;
            for axis in 0..2 {
                let distance = |key: usize| distances(&centre[at..], key, self.columns)[axis];
                let w = inverse_width[at + axis];
                let sum = |power: i32| d.iter().enumerate().map(|(key, d)| d * distance(key).powi(power)).sum::<f32>();
                gradients[0][at + axis] = -2.0 * SMOOTH * w * w * sum(1);
                gradients[1][at + axis] = -2.0 * SMOOTH * w * sum(2);
            }
        }
        outputs.iter().zip(gradients).map(|(&ty, g)| Host::from_f32(ty, g)).collect()
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let [batch, heads, n, s] = inputs[0].shape.bhwc();
        let (rows, lanes) = (batch * heads * n, s.next_power_of_two().min(32));
        let kernel = Dispatch::new(wgsl!("prior_backward.wgsl"), 3)
            .element("element", inputs[0].dtype)
            .constant("GROUP", GROUP)
            .constant("LANES", lanes)
            .params(Words::of([rows, s, n, heads, self.columns]).float(1.0 / self.columns as f32))
            .over_groups(rows.div_ceil(GROUP / lanes));
        vec![kernel]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        10 * inputs[0].shape.len() as u64
    }
}

/// Points `[B, N, h, 2]`: centres in and around a grid, and inverse widths of either sign, of Gaussians as wide as a quarter of the grid or wider.
pub(super) fn test_points([batch, n, heads]: [usize; 3], columns: usize, rows: usize, seed: u64) -> [Host; 2] {
    let shape = [batch, n, heads, 2];
    let extent = [columns as f32, rows as f32];
    let centre = noise(shape, seed).to_f32().iter().enumerate().map(|(i, v)| (0.5 + 0.7 * v) * extent[i % 2]).collect();
    let sharpest = 4.0 / columns.max(rows) as f32;
    let inverse_width = noise(shape, seed + 1).to_f32().iter().map(|v| v * sharpest).collect();
    [Host::f32(shape, centre), Host::f32(shape, inverse_width)]
}

/// Cases of the op table.
pub fn cases() -> Vec<Case> {
    // B, N, heads, rows and columns of the grid: one of each, one line, primes, a real map, > 65,535 workgroups.
    let shapes = [
        ([1, 1, 1], 1, 1),
        ([1, 3, 1], 1, 7),
        ([2, 5, 3], 7, 1),
        ([2, 7, 2], 5, 11),
        ([1, 10, 8], 4, 5),
        ([1, 3, 8], 25, 34),
        ([3, 2, 1], 31, 33),
        ([1, 1, 2], 1, 1031),
        ([1, 131_080, 2], 1, 3),
    ];
    let mut cases = Vec::new();
    for (i, ([batch, n, heads], rows, columns)) in shapes.into_iter().enumerate() {
        let seed = 10 * i as u64;
        let [centre, inverse_width] = test_points([batch, n, heads], columns, rows, seed);
        // Sums of squared distances grow with the grid.
        let scale = (columns.max(rows) as f32).powi(2);
        let inputs = vec![noise([batch, heads, n, rows * columns], seed + 5), centre, inverse_width];
        let case = Case::new(PriorBackward { columns }, inputs, Tolerance { absolute: 2e-6 * scale, relative: 2e-5 });
        if n < 100 {
            let mut half = case.clone();
            half.inputs[0] = half.inputs[0].clone().cast(DType::F16);
            cases.push(half);
        }
        cases.push(case);
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prior_is_that_of_the_paper() {
        // exp(−(i − cw)² / (β w²) − (j − ch)² / (β h²)) with w = 2, h = 1/2, on a grid 3 wide.
        let (centre, width) = ([1.25f32, 0.5], [2.0f32, 0.5]);
        let mut scores = [0.0; 6];
        add(&mut scores, &centre, &width.map(|w| 1.0 / w), 3, DType::F32);
        for (key, score) in scores.into_iter().enumerate() {
            let (i, j) = ((key % 3) as f32, (key / 3) as f32);
            let expected = (-(i - centre[0]).powi(2) / (8.0 * width[0].powi(2)) - (j - centre[1]).powi(2) / (8.0 * width[1].powi(2))).exp();
            assert!((score.exp() - expected).abs() < 1e-6, "{key}");
        }
    }

    #[test]
    fn f16_scores_stay_finite() {
        let mut scores = [0.0; 2];
        add(&mut scores, &[1e4, 0.0], &[1.0, 1.0], 2, DType::F16);
        assert_eq!(scores, [-65504.0; 2]);
    }
}
