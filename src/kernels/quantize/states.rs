//! The states of many quantizers by one launch, and the gradients of all their step sizes and zero points by another: what
//! [`QuantizerState`](super::QuantizerState) and its gradient are for one quantizer, for all whose parameters lie in one arena.
//!
//! - [`QuantizerStates`]: `(arena f32 [N], table u32 [R, 4]) -> f32 [R, 4]`, a [`StateRow`] each.
//! - [`StateGradients`]: `(gradients f32 [N], sums f32 [S], table u32 [R, 8]) -> gradients`, in place, a [`GradientRow`] each: the sum over
//!   the parts that [`QuantizeBackward`](super::QuantizeBackward) left, times g.
//!
//! With a network's few hundred quantizers a launch for each takes longer than the work of all.

use super::state::test_alphas;
use super::{ALPHA_MAX, ALPHA_MIN, GROUP, Levels, QuantizerState};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Op, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

/// A place that there is none of.
const NONE: u32 = u32::MAX;

/// One step size of a quantizer.
#[derive(Clone, Copy, Debug)]
pub struct StateRow {
    /// Where its alpha lies in the arena.
    pub alpha: usize,
    /// Where its zero point lies; without one it is 0.
    pub zero_point: Option<usize>,
    /// The levels of the codes.
    pub levels: Levels,
}

/// One step size whose gradients are wanted.
#[derive(Clone, Copy, Debug)]
pub struct GradientRow {
    /// The index of its first sum, of four numbers each.
    pub first: usize,
    /// From the sum of one part to that of the next.
    pub stride: usize,
    /// How many sums there are.
    pub parts: usize,
    /// Factor of their sum.
    pub scale: f32,
    /// Where the gradient of alpha is written to.
    pub d_alpha: Option<usize>,
    /// Where that of the zero point is written to.
    pub d_zero_point: Option<usize>,
}

fn word(place: Option<usize>) -> u32 {
    place.map_or(NONE, |place| u32::try_from(place).expect("arenas have less than 2^32 elements"))
}

impl StateRow {
    /// The table for some step sizes; gaps become states of zeros.
    pub fn table(rows: &[Option<Self>]) -> Host {
        let row = |row: &Option<Self>| {
            row.map_or([0; 4], |Self { alpha, zero_point, levels }| {
                [word(Some(alpha)), word(zero_point), levels.bits, u32::from(levels.signed)]
            })
        };
        Host::u32([rows.len(), 4], rows.iter().flat_map(row).collect())
    }
}

impl GradientRow {
    /// The table for some step sizes.
    pub fn table(rows: &[Self]) -> Host {
        let row = |r: &Self| {
            let [first, stride, parts] = [r.first, r.stride, r.parts].map(|v| word(Some(v)));
            [first, stride, parts, r.scale.to_bits(), word(r.d_alpha), word(r.d_zero_point), 0, 0]
        };
        Host::u32([rows.len(), 8], rows.iter().flat_map(row).collect())
    }
}

/// `(arena, table) -> states`; see the module.
#[derive(Clone, Copy, Debug)]
pub struct QuantizerStates;

impl Op for QuantizerStates {
    fn name(&self) -> &'static str {
        "quantizer_states"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let fits = inputs.len() == 2 && inputs[0] == TensorType::f32([inputs[0].shape.len()]);
        assert!(fits && is_table(inputs[1], 4), "quantizer_states: wants an arena f32[N] and a table u32[R, 4], found {}", ids(inputs));
        vec![inputs[1].with_dtype(DType::F32)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let arena = inputs[0].to_f32();
        let state = |row: &[u32]| {
            if row[2] == 0 {
                return vec![0.0; 4];
            }
            let at = |place: u32| Host::f32([1], vec![arena[place as usize]]);
            let parameters: Vec<Host> = [row[0], row[1]].into_iter().filter(|&place| place != NONE).map(at).collect();
            let one = QuantizerState { bits: row[2], signed: row[3] != 0 };
            one.reference(&parameters.iter().collect::<Vec<_>>(), &[TensorType::f32([1, 4])])[0].to_f32().into_owned()
        };
        vec![Host::from_f32(outputs[0], inputs[1].as_u32().chunks(4).flat_map(state).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let n = inputs[1].shape.rows();
        let kernel = Dispatch::new(wgsl!("quantize/states.wgsl"), 2)
            .constant("GROUP", GROUP)
            .part(wgsl!("quantize/state_of.wgsl"))
            .params(Words::of([n]).float(ALPHA_MIN).float(ALPHA_MAX))
            .over_items(n, GROUP);
        vec![kernel]
    }
}

/// `(gradients, sums, table) -> gradients` in place; see the module.
#[derive(Clone, Copy, Debug)]
pub struct StateGradients;

/// Invocations that add up the parts of a step size, and step sizes of a workgroup.
const LANES: usize = 32;
const AT_ONCE: usize = 4;

impl Op for StateGradients {
    fn name(&self) -> &'static str {
        "state_gradients"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let flat = |t: &TensorType| *t == TensorType::f32([t.shape.len()]);
        let fits = inputs.len() == 3 && inputs[..2].iter().all(flat) && is_table(inputs[2], 8);
        assert!(fits, "state_gradients: wants gradients f32[N], sums f32[S] and a table u32[R, 8], found {}", ids(inputs));
        vec![inputs[0]]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (mut gradients, sums) = (inputs[0].to_f32().into_owned(), inputs[1].to_f32());
        for row in inputs[2].as_u32().chunks(8) {
            let [first, stride, parts] = [row[0], row[1], row[2]].map(|v| v as usize);
            for (column, place) in [(0, row[4]), (2, row[5])] {
                let sum: f64 = (0..parts).map(|part| f64::from(sums[4 * (first + part * stride) + column])).sum();
                if place != NONE {
                    gradients[place as usize] = sum as f32 * f32::from_bits(row[3]);
                }
            }
        }
        vec![Host::from_f32(outputs[0], gradients)]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let rows = inputs[2].shape.rows();
        let kernel = Dispatch::new(wgsl!("quantize/state_gradients.wgsl"), 3)
            .bind([1, 2])
            .constant("GROUP", LANES * AT_ONCE)
            .constant("LANES", LANES)
            .params(Words::of([rows]))
            .over_groups(rows.div_ceil(AT_ONCE));
        vec![kernel]
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0)]
    }
}

fn is_table(ty: TensorType, columns: usize) -> bool {
    ty == TensorType::new([ty.shape.rows(), columns], DType::U32)
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, n) in [1usize, 5, 257, 3000].into_iter().enumerate() {
        // Step sizes, then as many zero points, of which halves round to even; every fifth row is a gap, every third has no zero point.
        let zero_points = noise([n], i as u64).to_f32().iter().map(|v| (v * 600.0).round() / 2.0).collect();
        let arena = Host::f32([2 * n], [test_alphas(n, i as u64), zero_points].concat());
        let row = |r: usize| StateRow {
            alpha: n - 1 - r,
            zero_point: (!r.is_multiple_of(3)).then_some(n + r),
            levels: Levels::new(2 + (r % 7) as u32, r.is_multiple_of(2)),
        };
        let rows: Vec<_> = (0..n).map(|r| (r % 5 != 4).then(|| row(r))).collect();
        cases.push(Case::new(QuantizerStates, vec![arena, StateRow::table(&rows)], Tolerance::EXACT));
        cases.push(gradient_case(n, i as u64));
    }
    cases
}

/// Step sizes of 1 to 70 parts, next to each other; some without a gradient of their own.
fn gradient_case(n: usize, seed: u64) -> Case {
    let mut first = 0;
    let mut rows = Vec::new();
    for r in 0..n {
        let parts = 1 + r * 7 % 70;
        let (d_alpha, d_zero_point) = ((r % 4 != 3).then_some(2 * r), (!r.is_multiple_of(3)).then_some(2 * r + 1));
        rows.push(GradientRow { first, stride: 1 + r % 2, parts, scale: 0.25 + r as f32 / 64.0, d_alpha, d_zero_point });
        first += parts * (1 + r % 2);
    }
    let inputs = vec![noise([2 * n + 3], seed), noise([4 * first], seed + 20), GradientRow::table(&rows)];
    Case::new(StateGradients, inputs, Tolerance { absolute: 1e-4, relative: 1e-5 })
}
