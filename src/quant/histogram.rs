//! What is kept of a step size's elements, however many there are: all of them while they are few, a histogram afterwards.
//!
//! The histogram's reach is a power of two. When it must grow it doubles, and bins merge in pairs: the result is that of a
//! histogram of the final reach from the start, so the order of batches does not matter to the counts.

/// Elements that are kept as they are.
const FEW: usize = 8192;
/// Bins on each side of 0.
const BINS: usize = 4096;

/// Equal or nearly equal elements: their mean and their number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) x: f32,
    pub(super) count: f64,
}

/// The elements of one step size.
#[derive(Clone, Debug)]
pub(super) enum Values {
    Few(Vec<f32>),
    Many(Box<Histogram>),
}

/// Counts and sums of the elements in equal bins over `-reach .. reach`.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    reach: f64,
    /// Positive and negative elements by their size.
    sides: [Vec<Bin>; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Bin {
    count: u64,
    sum: f64,
}

impl Values {
    pub(super) fn new() -> Self {
        Self::Few(Vec::new())
    }

    /// Adds finite elements, none of them larger than `largest`.
    pub(super) fn add(&mut self, x: &[f32], largest: f32) {
        if let Self::Few(few) = self {
            if few.len() + x.len() <= FEW {
                few.extend_from_slice(x);
                return;
            }
            let few = std::mem::take(few);
            let mut histogram = Box::new(Histogram::new());
            histogram.add(&few, few.iter().fold(0.0, |a, x| x.abs().max(a)));
            *self = Self::Many(histogram);
        }
        if let Self::Many(histogram) = self {
            histogram.add(x, largest);
        }
    }

    /// The elements from the least to the largest.
    pub(super) fn points(&self) -> Vec<Point> {
        match self {
            Self::Few(few) => {
                let mut sorted = few.clone();
                sorted.sort_unstable_by(f32::total_cmp);
                sorted.into_iter().map(|x| Point { x, count: 1.0 }).collect()
            }
            Self::Many(histogram) => histogram.points(),
        }
    }
}

impl Histogram {
    fn new() -> Self {
        // Below all that is not 0: the first elements set the reach.
        Self { reach: 2f64.powi(-150), sides: [vec![Bin::default(); BINS], vec![Bin::default(); BINS]] }
    }

    fn add(&mut self, x: &[f32], largest: f32) {
        while self.reach <= f64::from(largest) {
            self.double();
        }
        let scale = BINS as f64 / self.reach;
        for &x in x {
            let value = f64::from(x);
            let bin = &mut self.sides[usize::from(x < 0.0)][(value.abs() * scale) as usize];
            bin.count += 1;
            bin.sum += value;
        }
    }

    fn double(&mut self) {
        self.reach *= 2.0;
        for side in &mut self.sides {
            for i in 0..BINS {
                let pair = if 2 * i < BINS { [side[2 * i], side[2 * i + 1]] } else { [Bin::default(); 2] };
                side[i] = Bin { count: pair[0].count + pair[1].count, sum: pair[0].sum + pair[1].sum };
            }
        }
    }

    fn points(&self) -> Vec<Point> {
        let bins = self.sides[1].iter().rev().chain(&self.sides[0]).filter(|bin| bin.count > 0);
        bins.map(|bin| Point { x: (bin.sum / bin.count as f64) as f32, count: bin.count as f64 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::noise;

    fn values(batches: &[&[f32]]) -> Values {
        let mut values = Values::new();
        for x in batches {
            values.add(x, x.iter().fold(0.0, |a, x| x.abs().max(a)));
        }
        values
    }

    #[test]
    fn the_order_of_batches_does_not_matter_to_the_counts() {
        let small: Vec<f32> = noise([5000], 1).to_f32().iter().map(|v| v * 1e-3).collect();
        let large: Vec<f32> = noise([9000], 2).to_f32().iter().map(|v| v * 70.0).collect();
        let (a, b) = (values(&[&small, &large]).points(), values(&[&large, &small]).points());
        assert_eq!(a.iter().map(|p| p.count).collect::<Vec<_>>(), b.iter().map(|p| p.count).collect::<Vec<_>>());
        assert_eq!(a.iter().map(|p| p.count).sum::<f64>(), 14_000.0);
        assert!(a.iter().zip(&b).all(|(a, b)| (a.x - b.x).abs() <= 1e-5 * b.x.abs()));
    }

    #[test]
    fn points_are_sorted_and_lie_where_the_elements_do() {
        let x: Vec<f32> = noise([20_000], 3).to_f32().into_owned();
        let points = values(&[&x]).points();
        assert!(points.windows(2).all(|w| w[0].x < w[1].x));
        let mut sorted = x;
        sorted.sort_unstable_by(f32::total_cmp);
        let mut seen = 0;
        for point in points {
            assert!((point.x - sorted[seen]).abs() < 1.0 / BINS as f32);
            seen += point.count as usize;
        }
        assert_eq!(seen, sorted.len());
    }

    #[test]
    fn zeros_and_the_largest_numbers_have_bins() {
        let zeros = values(&[&[0.0; 10_000]]).points();
        assert_eq!(zeros, [Point { x: 0.0, count: 10_000.0 }]);
        let mut x = vec![f32::MAX; 5000];
        x.extend([f32::MIN; 5000]);
        assert_eq!(values(&[&x]).points().iter().map(|p| p.x).collect::<Vec<_>>(), [f32::MIN, f32::MAX]);
    }
}
