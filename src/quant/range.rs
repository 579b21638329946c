//! From a range of numbers to a step size and a zero point, and the search for the range with the least error.

use super::histogram::Point;
use crate::kernels::quantize::{ALPHA_MAX, ALPHA_MIN, Levels};

/// What one step size is to cover. It always covers 0, which must have a code.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    pub(super) low: f32,
    pub(super) high: f32,
}

impl Range {
    pub(super) fn new(low: f32, high: f32) -> Self {
        Self { low: low.min(0.0), high: high.max(0.0) }
    }

    /// The range that leaves out, at each end, what lies beyond a percentile of sorted points.
    pub(super) fn percentile(points: &[Point], percentile: f64) -> Self {
        let total: f64 = points.iter().map(|p| p.count).sum();
        // At least one element remains.
        let beyond = ((1.0 - percentile / 100.0) * total).min(total - 1.0);
        let (low, high) = (first_beyond(points.iter(), beyond), first_beyond(points.iter().rev(), beyond));
        Self::new(low.map_or(0.0, |p| p.x), high.map_or(0.0, |p| p.x))
    }

    /// Step size and zero point: the range from the first to the last level with a zero point, the least symmetric one that
    /// clips nothing without. A range of nothing but 0 has a step size of 1: the first elements that differ from 0 are not
    /// lost.
    pub(super) fn step(self, levels: Levels, zero_point: bool) -> Step {
        let (first, last) = (levels.low() as f32, levels.high() as f32);
        let alpha = if zero_point {
            // Each divided first: the width itself may leave f32.
            self.high / (last - first) - self.low / (last - first)
        } else {
            let below = if levels.signed { self.low / first } else { 0.0 };
            (self.high / last).max(below)
        };
        let alpha = if alpha > 0.0 { alpha.clamp(ALPHA_MIN, ALPHA_MAX) } else { 1.0 };
        let zero = if zero_point { (first - self.low / alpha).round_ties_even().clamp(first, last) } else { 0.0 };
        Step { alpha, zero }
    }
}

/// The point with which more than so many elements have been passed.
fn first_beyond<'a>(mut points: impl Iterator<Item = &'a Point>, count: f64) -> Option<&'a Point> {
    let mut passed = 0.0;
    points.find(|p| {
        passed += p.count;
        passed > count
    })
}

/// A step size and its zero point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) alpha: f32,
    pub(super) zero: f32,
}

impl Step {
    /// The sum of the squared errors of all points.
    fn error(self, points: &[Point], levels: Levels) -> f64 {
        let inverse = 1.0 / self.alpha;
        let (low, high) = (levels.low() as f32, levels.high() as f32);
        let squared = |p: &Point| {
            let q = (p.x * inverse + self.zero).clamp(low, high).round_ties_even();
            let error = f64::from(self.alpha) * f64::from(q - self.zero) - f64::from(p.x);
            p.count * error * error
        };
        points.iter().map(squared).sum()
    }
}

/// Ranges of the search in an octave, and octaves: from the whole range to a thousandth.
const PER_OCTAVE: i32 = 16;
const OCTAVES: i32 = 10;

/// The step with the least sum of squared errors among parts of the whole range: first both ends are cut at the same distance
/// from 0, then the upper end alone is moved, then the lower one. The first of equals, the widest, is taken.
pub(super) fn least_error(points: &[Point], levels: Levels, zero_point: bool) -> Step {
    let whole = Range::new(points.first().map_or(0.0, |p| p.x), points.last().map_or(0.0, |p| p.x));
    let mut best = whole;
    let mut least = best.step(levels, zero_point).error(points, levels);
    let mut search = |range: &dyn Fn(Range, f32) -> Range| {
        let from = best;
        for i in 0..=PER_OCTAVE * OCTAVES {
            let range = range(from, (-i as f32 / PER_OCTAVE as f32).exp2());
            let error = range.step(levels, zero_point).error(points, levels);
            if error < least {
                (best, least) = (range, error);
            }
        }
    };
    let farthest = whole.high.max(-whole.low);
    search(&|_, share| Range { low: whole.low.max(-farthest * share), high: whole.high.min(farthest * share) });
    if zero_point && whole.low < 0.0 && whole.high > 0.0 {
        search(&|from, share| Range { high: whole.high * share, ..from });
        search(&|from, share| Range { low: whole.low * share, ..from });
    }
    best.step(levels, zero_point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_reaches_from_the_first_level_to_the_last() {
        let levels = Levels::new(4, true);
        assert_eq!(Range::new(-3.0, 12.0).step(levels, true), Step { alpha: 1.0, zero: -5.0 });
        assert_eq!(Range::new(2.0, 15.0).step(Levels::new(4, false), true), Step { alpha: 1.0, zero: 0.0 });
        assert_eq!(Range::new(-30.0, -15.0).step(levels, true), Step { alpha: 2.0, zero: 7.0 });
        assert_eq!(Range::new(-16.0, 7.0).step(levels, false), Step { alpha: 2.0, zero: 0.0 });
        assert_eq!(Range::new(-1.0, 21.0).step(levels, false), Step { alpha: 3.0, zero: 0.0 });
        assert_eq!(Range::new(0.0, 0.0).step(levels, true).alpha, 1.0);
    }

    #[test]
    fn ranges_of_every_size_have_finite_steps() {
        for levels in [Levels::new(2, true), Levels::new(8, false)] {
            for zero_point in [true, false] {
                for range in [Range::new(f32::MIN, f32::MAX), Range::new(0.0, 1e-45), Range::new(-1e-45, 0.0)] {
                    let Step { alpha, zero } = range.step(levels, zero_point);
                    assert!((ALPHA_MIN..=ALPHA_MAX).contains(&alpha) && zero.fract() == 0.0, "{range:?}: {alpha} {zero}");
                }
            }
        }
    }

    #[test]
    fn a_percentile_leaves_out_both_tails() {
        let points: Vec<Point> = (-50..=49).map(|i| Point { x: i as f32, count: 10.0 }).collect();
        assert_eq!(Range::percentile(&points, 100.0), Range { low: -50.0, high: 49.0 });
        assert_eq!(Range::percentile(&points, 99.0), Range { low: -49.0, high: 48.0 });
        assert_eq!(Range::percentile(&points, 98.5), Range { low: -49.0, high: 48.0 });
        assert_eq!(Range::percentile(&points[..1], 50.1), Range { low: -50.0, high: 0.0 });
    }

    #[test]
    fn no_range_of_a_fine_grid_is_much_better_than_the_one_that_is_found() {
        // A bell with a far outlier at one end: the best range leaves it out.
        let mut points: Vec<Point> =
            (-40..=40).map(|i| Point { x: i as f32 / 10.0, count: 1e6 * (-(i * i) as f64 / 200.0).exp() }).collect();
        points.push(Point { x: 100.0, count: 1.0 });
        for (bits, zero_point) in [(2, true), (3, false), (4, true), (8, true)] {
            let levels = Levels::new(bits, true);
            let found = least_error(&points, levels, zero_point).error(&points, levels);
            let whole = Range::new(-4.0, 100.0).step(levels, zero_point).error(&points, levels);
            let mut least = f64::MAX;
            for (low, high) in (1..=80).flat_map(|l| (1..=80).map(move |h| (-0.05 * l as f32, 0.05 * h as f32))) {
                least = least.min(Range::new(low, high).step(levels, zero_point).error(&points, levels));
            }
            assert!(found < whole && found <= 1.3 * least, "{bits} bits: {found}, of all ranges {least}, of the whole {whole}");
        }
    }
}
