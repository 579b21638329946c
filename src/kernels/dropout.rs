//! Dropout from a counter: which elements are kept is a pure function of a seed, of the place in the model and of the
//! element's index. Nothing is stored for the backward, and every device keeps the same elements.
//!
//! `y = x / (1 − p)` where `bits(seed, salt, index) ≥ p · 2³²`, 0 elsewhere; x any shape of floats, seed `u32[1]`, y as x. The
//! bits come from integer hashing (a finalizer of 32 bits, twice, with keys from seed and salt): good for training, not for
//! statistics or secrets. The gradient is the same dropout of `d_y`.

use super::rows::{floats, width_of};
use crate::gpu::shader::Source;
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::rng::mix;
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

const GROUP: usize = 256;

/// One place of a model where elements are dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The share of elements that become 0: from 0 to below 1.
    pub p: f32,
    /// What distinguishes this place from others under the same seed.
    pub salt: u32,
}

impl Dropout {
    /// Elements whose bits are below this are dropped.
    pub(super) fn threshold(self) -> u32 {
        (f64::from(self.p) * f64::from(u32::MAX)).round() as u32
    }

    /// What the others are multiplied with.
    pub(crate) fn scale(self) -> f32 {
        1.0 / (1.0 - self.p)
    }

    /// What each element is multiplied with under a seed, by its index: 0 or [`Dropout::scale`].
    pub(super) fn factors(self, seed: u32) -> impl Fn(usize) -> f32 + Copy {
        let first = mix(mix(seed.wrapping_add(0x9e37_79b9)) ^ self.salt);
        let second = mix(first.wrapping_add(0x9e37_79b9));
        let (threshold, scale) = (self.threshold(), self.scale());
        move |index| if mix(mix(index as u32 ^ first) ^ second) >= threshold { scale } else { 0.0 }
    }

    /// The words `salt`, `threshold` and `scale` of a shader's parameters.
    pub(super) fn words(self, words: Words) -> Words {
        words.word(self.salt).word(self.threshold()).float(self.scale())
    }

    /// Without what stores its results.
    pub(super) fn kernel(self, x: TensorType, width: usize) -> Dispatch {
        let n = x.shape.len() / width;
        Dispatch::new(wgsl!("dropout/elements.wgsl"), 2)
            .wide("wide_x", x.dtype, width)
            .wide("wide", DType::F32, width)
            .constant("GROUP", GROUP)
            .part(kept(width))
            .params(self.words(Words::of([n])))
            .over_items(n, GROUP)
    }
}

/// The type of a seed.
pub(super) fn seed_type() -> TensorType {
    TensorType::new([1], DType::U32)
}

/// The shader's `kept` for single elements or vec4s of them.
pub(super) fn kept(width: usize) -> Source {
    if width == 4 { wgsl!("dropout/kept_vec4.wgsl") } else { wgsl!("dropout/kept_scalar.wgsl") }
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [x, seed] = inputs else { panic!("dropout: wants x and a seed, found {}", ids(inputs)) };
        let fits = x.dtype.is_float() && *seed == seed_type() && (0.0..1.0).contains(&self.p);
        assert!(fits, "dropout: wants floats, a seed u32[1] and 0 <= p < 1, found {}, {self:?}", ids(inputs));
        vec![*x]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let factor = self.factors(inputs[1].as_u32()[0]);
        let y = inputs[0].to_f32().iter().enumerate().map(|(i, x)| x * factor(i)).collect();
        vec![Host::from_f32(outputs[0], y)]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        width_of(inputs[0].shape.len()).map(|width| floats(self.kernel(inputs[0], width), 3, inputs[0].dtype, width)).collect()
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], _wanted: &[bool]) -> Vec<Option<Var>> {
        vec![d_outputs[0].map(|d_y| graph.apply(*self, &[d_y, io.inputs[1]])), None]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        inputs[0].shape.len() as u64
    }
}

/// Drops a share `p` of the elements of x and scales the others so that the mean stays; `seed` is `u32[1]`. No node when p is 0.
#[track_caller]
pub fn dropout(g: &mut Graph, x: Var, seed: Var, Dropout { p, salt }: Dropout) -> Var {
    if p == 0.0 { x } else { g.apply(Dropout { p, salt }, &[x, seed]) }
}

/// Cases of the op table.
pub fn cases() -> Vec<Case> {
    // One element, primes, a vec4 and one more, attention maps, more than 65,535 workgroups.
    let shapes: [&[usize]; 9] = [&[1], &[7], &[4], &[5], &[2, 3, 257], &[2, 2, 5, 850], &[1021], &[3, 5, 7, 12], &[65_535 * 256 + 3]];
    let mut cases = Vec::new();
    for (i, shape) in shapes.into_iter().enumerate() {
        let dropout = Dropout { p: [0.1, 0.5, 0.999, 0.0][i % 4], salt: 0xdead_beef_u32.wrapping_mul(i as u32) };
        let seed = Host::u32([1], vec![(i as u32).wrapping_sub(1)]);
        // Zeros would hide whether an element was kept.
        let x = noise(shape, i as u64).to_f32().iter().map(|v| v + 2.0).collect();
        let case = Case::new(dropout, vec![Host::f32(shape, x), seed], Tolerance { absolute: 0.0, relative: 1e-6 });
        if shape[0] < 1000 {
            cases.push(case.in_f16(Tolerance { absolute: 0.0, relative: 2e-3 }));
        }
        cases.push(case);
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kept ones among the first 2^16 elements, as 1 and 0.
    fn kept(p: f32, salt: u32, seed: u32) -> Vec<f64> {
        let factor = Dropout { p, salt }.factors(seed);
        (0..1 << 16).map(|i| f64::from(u8::from(factor(i) != 0.0))).collect()
    }

    /// Correlation of two sequences of the same share of ones.
    fn correlation(a: &[f64], b: &[f64]) -> f64 {
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let (ma, mb) = (mean(a), mean(b));
        let covariance = a.iter().zip(b).map(|(a, b)| (a - ma) * (b - mb)).sum::<f64>() / a.len() as f64;
        covariance / (ma * (1.0 - ma) * mb * (1.0 - mb)).sqrt()
    }

    #[test]
    fn the_share_that_is_asked_for_is_dropped() {
        for p in [0.1f32, 0.5, 0.9] {
            let share = 1.0 - kept(p, 7, 1).iter().sum::<f64>() / f64::from(1 << 16);
            assert!((share - f64::from(p)).abs() < 0.01, "{p}: {share}");
        }
        assert!(kept(0.0, 7, 1).iter().all(|&k| k == 1.0));
    }

    #[test]
    fn seeds_places_and_neighbours_are_independent() {
        let base = kept(0.3, 5, 1);
        for (what, other) in [("seed", kept(0.3, 5, 2)), ("salt", kept(0.3, 6, 1)), ("both", kept(0.3, 1, 5))] {
            assert!(correlation(&base, &other).abs() < 0.02, "{what}");
        }
        for lag in [1, 2, 4, 32, 850, 1024, 4096] {
            assert!(correlation(&base[lag..], &base[..base.len() - lag]).abs() < 0.02, "{lag}");
        }
    }

    #[test]
    fn the_same_elements_are_kept_for_ever() {
        // A change of this line is a change of what every recorded training run means.
        let factor = Dropout { p: 0.5, salt: 3 }.factors(42);
        let first: String = (0..32).map(|i| if factor(i) > 0.0 { '1' } else { '0' }).collect();
        assert_eq!(first, "01011101101001111100100001101001");
    }

    #[test]
    fn no_share_is_no_node_and_the_mean_stays() {
        let mut g = Graph::new();
        let (x, seed) = (g.input("x", TensorType::f32([4])), g.input("seed", TensorType::new([1], DType::U32)));
        assert_eq!(dropout(&mut g, x, seed, Dropout { p: 0.0, salt: 1 }), x);
        assert_eq!(Dropout { p: 0.75, salt: 0 }.scale(), 4.0);
    }

    #[test]
    #[should_panic(expected = "0 <= p < 1")]
    fn dropping_everything_is_refused() {
        let seed = TensorType::new([1], DType::U32);
        Dropout { p: 1.0, salt: 0 }.outputs(&[TensorType::f32([2]), seed]);
    }
}
