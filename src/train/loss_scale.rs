//! How much the loss is scaled before it is differentiated, so that small gradients survive 16-bit floats.
//!
//! The scale halves when a gradient is not finite (that update is skipped), and doubles after 2,000 updates in a row without such:
//! the rule of PyTorch's `GradScaler`. All scales are powers of two, so scaling itself rounds nothing.

use crate::nn::Precision;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

const FIRST: f32 = 65_536.0;
const LARGEST: f32 = 16_777_216.0;
const GROW_AFTER: u32 = 2_000;

/// The scale of the next step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScale {
    value: f32,
    /// Updates since it changed; `None` when it never does.
    since: Option<u32>,
}

impl Default for LossScale {
    /// No scale.
    fn default() -> Self {
        Self { value: 1.0, since: None }
    }
}

impl LossScale {
    /// The scale at the start: 1 for good in f32, which has room enough.
    pub fn new(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::default(),
            Precision::F16 => Self { value: FIRST, since: Some(0) },
        }
    }

    /// What the loss is multiplied with.
    pub fn value(self) -> f32 {
        self.value
    }

    /// The scale behind a step whose update was done.
    pub fn done(self) -> Self {
        match self.since {
            Some(since) if since + 1 >= GROW_AFTER => Self { value: (2.0 * self.value).min(LARGEST), since: Some(0) },
            since => Self { since: since.map(|n| n + 1), ..self },
        }
    }

    /// The scale behind a step whose gradient was not finite.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when it is not the scale that is to blame.
    pub fn skipped(self) -> Result<Self> {
        match self.since {
            Some(_) if self.value > 1.0 => Ok(Self { value: self.value / 2.0, since: Some(0) }),
            _ => Err(Error::NotFinite("the gradient is not finite, whatever its scale; parameters are as before".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_finds_its_place() {
        let start = LossScale::new(Precision::F16);
        let halved = start.skipped().unwrap();
        assert_eq!(halved.value(), start.value() / 2.0);
        let patient = (1..GROW_AFTER).fold(halved, |scale, _| scale.done());
        assert_eq!(patient.value(), halved.value());
        assert_eq!(patient.done().value(), start.value());
        assert_eq!((0..100_000).fold(start, |scale, _| scale.done()).value(), LARGEST);
    }

    #[test]
    fn what_no_scale_mends_is_an_error() {
        let mut scale = LossScale::new(Precision::F16);
        let halvings = std::iter::from_fn(|| {
            scale = scale.skipped().ok()?;
            Some(())
        });
        assert_eq!(halvings.count(), 16);
        assert!(LossScale::new(Precision::F32).skipped().is_err());
        assert_eq!(LossScale::new(Precision::F32).done(), LossScale::default());
    }
}
