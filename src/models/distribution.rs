//! Many numbers in few: mean, deviation, entropy, histogram.

use serde::Serialize;

/// How numbers are distributed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Distribution {
    /// How many there are.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
    /// Their differential entropy in bits, by Vasicek's estimate (1976), which needs no bins: the mean over all numbers of
    /// `log2(n / 2m · (x₍ᵢ₊ₘ₎ − x₍ᵢ₋ₘ₎))`, m = √n, for sorted x. It grows by 1 where all is spread twice as far; none where all are equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy: Option<f64>,
    /// The same for a deviation of 1: of the shape alone. A Gaussian's is the largest there is, 2.05.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy_of_shape: Option<f64>,
}

/// Spacings below this share of the deviation count as so much: equal numbers are as near as floats can tell.
const SMALLEST_SPACING: f64 = 1e-7;

impl Distribution {
    /// Of finite numbers.
    ///
    /// # Panics
    /// Without numbers.
    pub fn of(values: &[f32]) -> Self {
        assert!(!values.is_empty(), "no numbers have no distribution");
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let deviation = (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt();
        let entropy = (deviation > 0.0).then(|| entropy(values, deviation * SMALLEST_SPACING));
        Self { count: values.len(), mean, deviation, entropy, entropy_of_shape: entropy.map(|e| e - deviation.log2()) }
    }
}

fn entropy(values: &[f32], smallest: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    let (n, m) = (sorted.len(), ((sorted.len() as f64).sqrt().round() as usize).max(1));
    let at = |i: usize| f64::from(sorted[i.min(n - 1)]);
    let spacing = |i: usize| (at(i + m) - at(i.saturating_sub(m))).max(smallest);
    (0..n).map(|i| (n as f64 / (2 * m) as f64 * spacing(i)).log2()).sum::<f64>() / n as f64
}

/// The shares of numbers in equal parts of a range; the first and the last also hold what lies outside.
///
/// # Panics
/// Without numbers or without bins.
pub fn histogram(values: &[f32], (low, high): (f64, f64), bins: usize) -> Vec<f64> {
    assert!(!values.is_empty() && bins > 0, "{} numbers in {bins} bins", values.len());
    let mut shares = vec![0.0; bins];
    for &value in values {
        let place = (f64::from(value) - low) / (high - low) * bins as f64;
        shares[(place.max(0.0) as usize).min(bins - 1)] += 1.0 / values.len() as f64;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_and_a_gaussian_have_their_entropies() {
        let uniform: Vec<f32> = (0..10_000).map(|i| (i as f32 + 0.5) / 10_000.0).collect();
        let found = Distribution::of(&uniform);
        assert!((found.mean - 0.5).abs() < 1e-6 && (found.deviation - 12f64.sqrt().recip()).abs() < 1e-4, "{found:?}");
        // log2(1) = 0.
        assert!(found.entropy.unwrap().abs() < 0.02, "{found:?}");
        // The sum of twelve uniform numbers is nearly Gaussian: log2(√(2πe)) = 2.047.
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 24)
        };
        let gaussian: Vec<f32> = (0..20_000).map(|_| (4.0 * ((0..12).map(|_| next()).sum::<f64>() - 6.0)) as f32).collect();
        let found = Distribution::of(&gaussian);
        assert!((found.deviation - 4.0).abs() < 0.1, "{found:?}");
        assert!((found.entropy_of_shape.unwrap() - 2.047).abs() < 0.03 && (found.entropy.unwrap() - 4.047).abs() < 0.05, "{found:?}");
    }

    #[test]
    fn equal_numbers_have_no_entropy_and_few_levels_a_finite_one() {
        assert_eq!(
            Distribution::of(&[2.0; 9]),
            Distribution { count: 9, mean: 2.0, deviation: 0.0, entropy: None, entropy_of_shape: None }
        );
        let levels: Vec<f32> = (0..1000).map(|i| (i % 2) as f32).collect();
        assert!(Distribution::of(&levels).entropy.is_some_and(|e| e.is_finite() && e < 0.0));
    }

    #[test]
    fn what_lies_outside_a_histogram_is_at_its_ends() {
        assert_eq!(histogram(&[-9.0, -1.0, 0.0, 0.5, 0.99, 1.0, 7.0, 0.5], (-1.0, 1.0), 4), [0.25, 0.0, 0.125, 0.625]);
    }
}
