//! How the learning rate changes over the run.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// How the learning rate falls. Places are parts of the whole run, 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Decay {
    /// It does not.
    Constant,
    /// Times `factor` after every such part of the run: PyTorch's `StepLR`.
    Step {
        /// The part between two falls.
        every: f64,
        /// Factor of each fall.
        factor: f64,
    },
    /// Times `factor` at each of the given places: PyTorch's `MultiStepLR`.
    MultiStep {
        /// Where the rate falls.
        at: Vec<f64>,
        /// Factor of each fall.
        factor: f64,
    },
    /// Half a cosine from 1 behind the warm-up to `least` at the end.
    Cosine {
        /// The lowest rate, as a part of the highest.
        least: f64,
    },
}

/// A factor of the learning rate for every step: a linear warm-up times a decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Steps over which the rate rises evenly: `(step + 1) / warmup`.
    pub warmup: u64,
    /// How it falls.
    pub decay: Decay,
}

impl Default for Schedule {
    /// No warm-up, and a tenth for the last fifth, as DETR's published models of 500 epochs.
    fn default() -> Self {
        Self { warmup: 0, decay: Decay::MultiStep { at: vec![0.8], factor: 0.1 } }
    }
}

impl Schedule {
    /// Checks what the type system does not.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let part = |name: &str, value: f64| {
            if (0.0..=1.0).contains(&value) {
                return Ok(());
            }
            Err(Error::Config(format!("`schedule`: `{name}` is {value}; it must be between 0 and 1")))
        };
        match &self.decay {
            Decay::Constant => Ok(()),
            Decay::Step { every, factor } if *every > 0.0 => part("every", *every).and(part("factor", *factor)),
            Decay::Step { every, .. } => Err(Error::Config(format!("`schedule`: `every` is {every}; it must be above 0"))),
            Decay::MultiStep { at, factor } => at.iter().try_for_each(|&at| part("at", at)).and(part("factor", *factor)),
            Decay::Cosine { least } => part("least", *least),
        }
    }

    /// The factor of the learning rate at a step, the first of which is 0, of a run of so many.
    pub fn factor(&self, step: u64, steps: u64) -> f32 {
        let warm = if step < self.warmup { (step + 1) as f64 / self.warmup as f64 } else { 1.0 };
        let reached = |place: f64| step as f64 >= place * steps as f64;
        let decay = match &self.decay {
            Decay::Constant => 1.0,
            Decay::Step { every, factor } => factor.powf((step as f64 / (every * steps as f64).max(1.0)).floor()),
            Decay::MultiStep { at, factor } => factor.powi(at.iter().filter(|&&at| reached(at)).count() as i32),
            Decay::Cosine { least } => {
                let behind = step.saturating_sub(self.warmup) as f64 / steps.saturating_sub(self.warmup).max(1) as f64;
                least + (1.0 - least) * 0.5 * (1.0 + (std::f64::consts::PI * behind.min(1.0)).cos())
            }
        };
        (warm * decay) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(warmup: u64, decay: Decay, steps: u64, at: &[u64]) -> Vec<f32> {
        let schedule = Schedule { warmup, decay };
        schedule.validate().unwrap();
        at.iter().map(|&step| schedule.factor(step, steps)).collect()
    }

    #[test]
    fn each_schedule_has_the_values_of_its_formula() {
        assert_eq!(factors(0, Decay::Constant, 10, &[0, 1_000_000]), [1.0, 1.0]);
        assert_eq!(factors(4, Decay::Constant, 10, &[0, 1, 2, 3, 4]), [0.25, 0.5, 0.75, 1.0, 1.0]);
        let step = Decay::Step { every: 0.25, factor: 0.5 };
        assert_eq!(factors(0, step, 40, &[0, 9, 10, 19, 20, 30]), [1.0, 1.0, 0.5, 0.5, 0.25, 0.125]);
        let multi = Decay::MultiStep { at: vec![0.5, 0.9], factor: 0.25 };
        assert_eq!(factors(2, multi, 100, &[0, 1, 49, 50, 89, 90, 99]), [0.5, 1.0, 1.0, 0.25, 0.25, 0.0625, 0.0625]);
        let cosine = Decay::Cosine { least: 0.25 };
        assert_eq!(factors(10, cosine, 110, &[4, 9, 10, 60, 110, 1000]), [0.5, 1.0, 1.0, 0.625, 0.25, 0.25]);
    }

    #[test]
    fn runs_without_length_and_endless_ones_have_factors() {
        for decay in
            [Decay::Step { every: 1e-9, factor: 0.1 }, Decay::Cosine { least: 0.0 }, Decay::MultiStep { at: vec![0.0; 99], factor: 0.0 }]
        {
            for (step, steps) in [(0, 0), (u64::MAX, 1), (0, u64::MAX), (u64::MAX, u64::MAX)] {
                let factor = Schedule { warmup: 3, decay: decay.clone() }.factor(step, steps);
                assert!((0.0..=1.0).contains(&factor), "{decay:?} at {step} of {steps}: {factor}");
            }
        }
    }

    #[test]
    fn mistakes_are_told() {
        let wrong = [
            Decay::Step { every: 0.0, factor: 0.1 },
            Decay::Step { every: 0.5, factor: f64::NAN },
            Decay::MultiStep { at: vec![0.5], factor: 1.5 },
            Decay::MultiStep { at: vec![0.5, 100.0], factor: 0.5 },
            Decay::Cosine { least: -1.0 },
        ];
        for decay in wrong {
            let schedule = Schedule { warmup: 0, decay };
            assert!(matches!(schedule.validate(), Err(Error::Config(_))), "{schedule:?}");
        }
    }
}
