//! Where step sizes start: statistics of data that comes in batches, and the rules that make step sizes of them.

use super::histogram::Values;
use super::quantizer::{Method, Quantizer, Sign, Steps};
use super::range::{Range, Step, least_error};
use crate::kernels::quantize::{ALPHA_MAX, ALPHA_MIN, Levels};
use crate::tensor::Shape;
use crate::{Error, Result};
use rayon::prelude::*;

/// Below this, data is signed: rounding may leave a tiny negative number where there should be none.
const NEGATIVE: f32 = -1e-5;

/// Collects what one quantizer's step sizes start from. The same batches give the same step sizes, to the bit.
#[derive(Clone, Debug)]
pub struct Observer {
    quantizer: Quantizer,
    groups: Vec<Group>,
}

/// What is known of the elements of one step size.
#[derive(Clone, Debug)]
struct Group {
    least: f32,
    largest: f32,
    count: u64,
    /// Of absolute values.
    sum: f64,
    values: Values,
}

impl Group {
    fn new() -> Self {
        Self { least: f32::INFINITY, largest: f32::NEG_INFINITY, count: 0, sum: 0.0, values: Values::new() }
    }

    fn add(&mut self, x: &[f32], keep: bool) {
        let (least, largest) = x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)));
        self.sum += x.iter().map(|x| f64::from(x.abs())).sum::<f64>();
        self.count += x.len() as u64;
        self.least = self.least.min(least);
        self.largest = self.largest.max(largest);
        if keep {
            self.values.add(x, largest.max(-least));
        }
    }
}

impl Observer {
    /// An observer that has seen nothing.
    ///
    /// # Errors
    /// [`Error::Config`] for bits or a percentile that no quantizer can have.
    pub fn new(quantizer: Quantizer) -> Result<Self> {
        Ok(Self { quantizer: quantizer.checked()?, groups: Vec::new() })
    }

    /// Takes one batch into account. Batches may differ in size.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when an element is not finite; the batch then counts for nothing.
    ///
    /// # Panics
    /// When `x` has not the shape's number of elements, or the shape not the earlier batches' number of step sizes.
    pub fn observe(&mut self, shape: Shape, x: &[f32]) -> Result<()> {
        assert_eq!(x.len(), shape.len(), "{shape} needs {} elements, found {}", shape.len(), x.len());
        if let Some(i) = x.iter().position(|x| !x.is_finite()) {
            let what = format!("a quantizer cannot start from data with {} in it (element {i} of {shape})", x[i]);
            return Err(Error::NotFinite(format!("{what}; look for the weight or input that it comes from")));
        }
        let (groups, inner) = self.quantizer.granularity.of(shape);
        if self.groups.is_empty() {
            self.groups = vec![Group::new(); groups];
        }
        assert_eq!(groups, self.groups.len(), "{shape} has {groups} step sizes, batches before had {}", self.groups.len());
        let keep = matches!(self.quantizer.method, Method::Percentile(_) | Method::Mse);
        self.groups.par_iter_mut().enumerate().for_each(|(i, group)| {
            // Elements of step sizes that alternate one by one are gathered, to be added in few and large pieces.
            let own = x.chunks(inner).skip(i).step_by(groups);
            if inner >= 256 {
                own.for_each(|x| group.add(x, keep));
            } else {
                group.add(&own.flatten().copied().collect::<Vec<_>>(), keep);
            }
        });
        Ok(())
    }

    /// Whether data decides if there are negative levels.
    pub fn sign_is_free(&self) -> bool {
        self.quantizer.sign == Sign::FromData
    }

    /// The levels: signed or not as the quantizer says, or as the data so far does.
    pub fn levels(&self) -> Levels {
        let negative = self.groups.iter().any(|g| g.least < NEGATIVE);
        let signed = match self.quantizer.sign {
            Sign::Signed => true,
            Sign::Unsigned => false,
            Sign::FromData => negative,
        };
        Levels::new(self.quantizer.bits, signed)
    }

    /// The step sizes and zero points. A step size that saw nothing but zeros is 1.
    ///
    /// # Errors
    /// [`Error::Config`] when nothing was observed.
    pub fn steps(&self) -> Result<Steps> {
        if self.groups.is_empty() {
            return Err(Error::Config("a quantizer has seen no data to start from; run at least one batch".into()));
        }
        let (levels, zero_point, method) = (self.levels(), self.quantizer.zero_point, self.quantizer.method);
        let mean = mean_rule(&self.groups, levels);
        let step = |g: &Group| match method {
            Method::Lsq => mean,
            Method::MinMax => Range::new(g.least, g.largest).step(levels, zero_point),
            Method::Percentile(p) => Range::percentile(&g.values.points(), p).step(levels, zero_point),
            Method::Mse => least_error(&g.values.points(), levels, zero_point),
        };
        let steps: Vec<Step> = self.groups.par_iter().map(step).collect();
        let zp = zero_point.then(|| steps.iter().map(|s| s.zero).collect());
        Ok(Steps { levels, alpha: steps.iter().map(|s| s.alpha).collect(), zp })
    }
}

/// LSQ's rule, on the whole tensor.
fn mean_rule(groups: &[Group], levels: Levels) -> Step {
    let (sum, count) = groups.iter().fold((0.0, 0), |(sum, count), g| (sum + g.sum, count + g.count));
    let alpha = (2.0 * sum / count as f64 / f64::from(levels.high()).sqrt()) as f32;
    Step { alpha: if alpha > 0.0 { alpha.clamp(ALPHA_MIN, ALPHA_MAX) } else { 1.0 }, zero: 0.0 }
}

#[cfg(test)]
mod tests {
    use super::super::Granularity;
    use super::*;
    use crate::graph::check::noise;

    const METHODS: [Method; 4] = [Method::Lsq, Method::MinMax, Method::Percentile(99.99), Method::Mse];

    fn start(quantizer: Quantizer, x: &[f32]) -> Steps {
        quantizer.start(Shape::new([x.len()]), x).unwrap()
    }

    #[test]
    fn the_rules_give_what_they_are_defined_by() {
        let x = [-1.0, 0.0, 2.0, 5.0];
        let at = |method| start(Quantizer::activations(4, method), &x);
        assert_eq!(at(Method::Lsq).alpha, [(2.0 * 2.0 / 7f64.sqrt()) as f32]);
        assert_eq!(at(Method::Lsq).zp, Some(vec![0.0]));
        let range = at(Method::MinMax);
        assert_eq!((range.levels, &range.alpha[..], range.zp), (Levels::new(4, true), &[0.4][..], Some(vec![-6.0])));
        assert_eq!(at(Method::Percentile(99.99)), at(Method::MinMax));
    }

    #[test]
    fn the_sign_is_decided_by_all_batches_and_tiny_negatives_are_none() {
        let quantizer = Quantizer::activations(8, Method::MinMax);
        assert!(!start(quantizer, &[-9e-6, 1.0]).levels.signed);
        assert!(start(quantizer, &[-2e-5, 1.0]).levels.signed);
        let mut observer = Observer::new(quantizer).unwrap();
        for x in [[0.5, 1.0], [-1.0, 0.5]] {
            observer.observe(Shape::new([2]), &x).unwrap();
        }
        assert!(observer.levels().signed);
        let map = Observer::new(Quantizer::map(8, Method::MinMax)).unwrap();
        assert!(!map.levels().signed);
    }

    #[test]
    fn each_granularity_sees_its_own_elements() {
        // Element i is of size i + 1.
        let x: Vec<f32> = (1..=24).map(|i| i as f32).collect();
        let largest = |granularity, shape: &[usize]| {
            let quantizer = Quantizer { granularity, zero_point: false, ..Quantizer::activations(8, Method::MinMax) };
            let alpha = quantizer.start(Shape::new(shape), &x).unwrap().alpha;
            alpha.iter().map(|a| a * 255.0).map(f32::round).collect::<Vec<_>>()
        };
        assert_eq!(largest(Granularity::Tensor, &[2, 3, 4]), [24.0]);
        assert_eq!(largest(Granularity::Rows, &[2, 3, 4]), [12.0, 24.0]);
        assert_eq!(largest(Granularity::Heads(2), &[2, 3, 4]), [22.0, 24.0]);
        assert_eq!(largest(Granularity::Maps, &[2, 2, 3, 2]), [18.0, 24.0]);
        assert_eq!(largest(Granularity::Channels, &[2, 3, 4]), [21.0, 22.0, 23.0, 24.0]);
    }

    #[test]
    fn data_without_extent_has_step_sizes_too() {
        for method in METHODS {
            for quantizer in [Quantizer::activations(4, method), Quantizer::weights(4, method), Quantizer::map(4, method)] {
                let quantizer = Quantizer { granularity: Granularity::Tensor, ..quantizer };
                for x in [&[0.0; 9][..], &[0.0], &[3.0], &[-3.0], &[-0.25; 5], &[1e-40], &[f32::MAX, f32::MIN]] {
                    let steps = start(quantizer, x);
                    assert!(steps.alpha.len() == 1 && steps.alpha[0].is_normal() && steps.alpha[0] > 0.0, "{quantizer:?} {x:?}: {steps:?}");
                }
                assert_eq!(start(quantizer, &[0.0; 9]).alpha, [1.0]);
            }
        }
    }

    #[test]
    fn a_constant_keeps_its_value() {
        for method in [Method::MinMax, Method::Percentile(99.9), Method::Mse] {
            for c in [3.0f32, -0.7] {
                let steps = start(Quantizer::activations(4, method), &[c; 7]);
                let (alpha, zero) = (steps.alpha[0], steps.zp.unwrap()[0]);
                let q = (c / alpha + zero).round_ties_even().clamp(steps.levels.low() as f32, steps.levels.high() as f32);
                assert!((alpha * (q - zero) - c).abs() < 1e-5, "{method:?} {c}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_an_error_and_changes_nothing() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut observer = Observer::new(Quantizer::activations(4, Method::MinMax)).unwrap();
            observer.observe(Shape::new([2]), &[1.0, 2.0]).unwrap();
            let before = observer.steps().unwrap();
            let error = observer.observe(Shape::new([3]), &[9.0, bad, 9.0]).unwrap_err();
            assert!(matches!(error, Error::NotFinite(_)) && error.to_string().contains("element 1 of [3]"), "{error}");
            assert_eq!(observer.steps().unwrap(), before);
        }
    }

    #[test]
    fn no_data_and_impossible_quantizers_are_errors() {
        let quantizer = Quantizer::weights(4, Method::Mse);
        assert!(Observer::new(quantizer).unwrap().steps().unwrap_err().to_string().contains("at least one batch"));
        assert!(Observer::new(Quantizer { bits: 1, ..quantizer }).is_err());
        for p in [50.0, 100.1, f64::NAN] {
            assert!(Observer::new(Quantizer { method: Method::Percentile(p), ..quantizer }).is_err());
        }
    }

    #[test]
    fn batches_give_what_their_concatenation_gives() {
        let x: Vec<f32> = noise([40, 500], 5).to_f32().iter().map(|v| v * v * v * 4.0).collect();
        for method in METHODS {
            let quantizer = Quantizer { zero_point: false, ..Quantizer::activations(4, method) };
            let whole = start(quantizer, &x);
            let mut observer = Observer::new(quantizer).unwrap();
            for batch in x.chunks(500 * 7) {
                observer.observe(Shape::new([batch.len()]), batch).unwrap();
            }
            let parts = observer.steps().unwrap();
            assert!((parts.alpha[0] / whole.alpha[0] - 1.0).abs() < 1e-3, "{method:?}: {parts:?}, {whole:?}");
        }
    }

    #[test]
    fn less_than_the_whole_range_is_better_for_few_bits() {
        let x: Vec<f32> = noise([20_000], 9).to_f32().iter().map(|v| v.powi(5)).collect();
        for bits in [2, 3] {
            let weights = |method| Quantizer { granularity: Granularity::Tensor, ..Quantizer::weights(bits, method) };
            let alpha = |method| start(weights(method), &x).alpha[0];
            assert!(alpha(Method::Mse) < 0.8 * alpha(Method::MinMax), "{bits} bits");
        }
    }
}
