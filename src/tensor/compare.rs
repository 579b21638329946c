//! The one place that compares numbers.
//!
//! Written so that it can fail: a NaN on either side, a shape that differs, or nothing to compare is a failure,
//! and a value passes by `error <= allowed`, which a NaN cannot.

use super::{Data, Host};
use std::fmt;

/// How far a result may be from its reference: `|a − b| ≤ absolute + relative · |b|`, element by element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Allowed everywhere.
    pub absolute: f32,
    /// Allowed in proportion to the reference.
    pub relative: f32,
}

impl Tolerance {
    /// Every bit must agree.
    pub const EXACT: Self = Self { absolute: 0.0, relative: 0.0 };

    /// The same number for both parts.
    pub const fn of(t: f32) -> Self {
        Self { absolute: t, relative: t }
    }
}

/// The worst element of a comparison that failed, or why there was nothing to compare.
#[derive(Clone, Debug, PartialEq)]
pub enum Mismatch {
    /// Shapes or element types differ.
    Type(String),
    /// At least one element is too far off.
    Value {
        /// Flat index of the worst element.
        index: usize,
        /// What was computed there.
        found: f32,
        /// What the reference says.
        expected: f32,
        /// How many elements are too far off.
        wrong: usize,
        /// How many were compared.
        total: usize,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(what) => f.write_str(what),
            Self::Value { index, found, expected, wrong, total } => {
                write!(f, "{wrong} of {total} elements are off; worst at {index}: found {found:e}, expected {expected:e}")
            }
        }
    }
}

/// Compares a result with its reference and returns the largest absolute error.
///
/// # Errors
/// A [`Mismatch`] when types differ or an element is further off than allowed, NaN included.
pub fn compare(found: &Host, expected: &Host, tolerance: Tolerance) -> Result<f32, Mismatch> {
    if found.ty() != expected.ty() {
        return Err(Mismatch::Type(format!("found {}, expected {}", found.ty(), expected.ty())));
    }
    match (found.data(), expected.data()) {
        (Data::U32(a), Data::U32(b)) => compare_exact(a, b, |v| v as f32),
        (Data::I8(a), Data::I8(b)) => compare_exact(a, b, f32::from),
        _ => compare_floats(&found.to_f32(), &expected.to_f32(), tolerance),
    }
}

/// Compares two slices of floats; see [`compare`].
///
/// # Errors
/// As [`compare`]; slices that are empty or of different lengths are a [`Mismatch::Type`].
pub fn compare_floats(found: &[f32], expected: &[f32], tolerance: Tolerance) -> Result<f32, Mismatch> {
    if found.len() != expected.len() || found.is_empty() {
        return Err(Mismatch::Type(format!("found {} elements, expected {} and at least one", found.len(), expected.len())));
    }
    let (mut worst, mut worst_excess, mut wrong, mut largest) = (0, f32::NEG_INFINITY, 0, 0f32);
    for (i, (&a, &b)) in found.iter().zip(expected).enumerate() {
        let error = (a - b).abs();
        let allowed = tolerance.absolute + tolerance.relative * b.abs();
        let close = error <= allowed; // false for NaN
        if !close || !b.is_finite() {
            wrong += 1;
            let excess = if error.is_nan() { f32::INFINITY } else { error - allowed };
            if excess > worst_excess || wrong == 1 {
                (worst, worst_excess) = (i, excess);
            }
        }
        largest = largest.max(error);
    }
    if wrong > 0 {
        return Err(Mismatch::Value { index: worst, found: found[worst], expected: expected[worst], wrong, total: found.len() });
    }
    Ok(largest)
}

fn compare_exact<T: Copy + PartialEq>(found: &[T], expected: &[T], float: impl Fn(T) -> f32) -> Result<f32, Mismatch> {
    let differs = |i: &usize| found[*i] != expected[*i];
    let Some(first) = (0..found.len()).find(differs) else { return Ok(0.0) };
    let wrong = (0..found.len()).filter(differs).count();
    Err(Mismatch::Value { index: first, found: float(found[first]), expected: float(expected[first]), wrong, total: found.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_never_passes() {
        let loose = Tolerance::of(f32::MAX);
        assert!(compare_floats(&[f32::NAN], &[0.0], loose).is_err());
        assert!(compare_floats(&[0.0], &[f32::NAN], loose).is_err());
        assert!(compare_floats(&[f32::NAN], &[f32::NAN], loose).is_err());
        assert!(compare_floats(&[f32::INFINITY], &[f32::INFINITY], loose).is_err());
    }

    #[test]
    fn nothing_to_compare_fails() {
        assert!(compare_floats(&[], &[], Tolerance::EXACT).is_err());
        assert!(compare_floats(&[1.0], &[1.0, 2.0], Tolerance::EXACT).is_err());
    }

    #[test]
    fn the_worst_element_is_named() {
        let found = compare_floats(&[1.0, 2.5, 3.1], &[1.0, 2.0, 3.0], Tolerance::of(1e-3));
        assert!(matches!(found, Err(Mismatch::Value { index: 1, wrong: 2, total: 3, .. })), "{found:?}");
    }

    #[test]
    fn types_must_agree() {
        let a = Host::f32([2], vec![0.0; 2]);
        assert!(compare(&a, &Host::u32([2], vec![0; 2]), Tolerance::EXACT).is_err());
        assert!(compare(&a, &Host::f32([1, 2], vec![0.0; 2]), Tolerance::EXACT).is_err());
        assert!(compare(&Host::u32([2], vec![1, 2]), &Host::u32([2], vec![1, 3]), Tolerance::of(9.0)).is_err());
        assert!(compare(&Host::i8([2], vec![1, -2]), &Host::i8([2], vec![1, 2]), Tolerance::of(9.0)).is_err());
    }
}
