//! Low bits on the command line: how many, for which layers, and how step sizes start.

use clap::Args;
use qdetr::models::CalibrationMethod;
use qdetr::quant::{Bits, Method, Preset, Quantization};
use qdetr::{Error, Result};

/// The percentile that `percentile` alone stands for.
const PERCENTILE: f64 = 99.99;

/// Low bits that a configuration may have without the command line.
#[derive(Args)]
pub(crate) struct BitsArgs {
    /// Low bits of weights, activations and attention, such as 4-4-8
    #[arg(long, value_name = "W-A-ATTENTION")]
    bits: Option<Bits>,
    /// Which layers have them [default: compact]
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Activations without zero points: LSQ, where the default is LSQ+
    #[arg(long)]
    lsq: bool,
}

impl BitsArgs {
    /// What these arguments make of a configuration's low bits.
    ///
    /// # Errors
    /// [`Error::Usage`] when they say how and nobody says how many.
    pub(crate) fn over(&self, configured: Option<Quantization>) -> Result<Option<Quantization>> {
        let base = match (self.bits, configured) {
            (Some(bits), Some(configured)) => Quantization { bits, ..configured },
            (Some(bits), None) => Quantization::new(bits),
            (None, Some(configured)) => configured,
            (None, None) if self.preset.is_some() || self.lsq => {
                return Err(Error::Usage("--preset and --lsq are about low bits: say how many, with --bits 4-4-8".into()));
            }
            (None, None) => return Ok(None),
        };
        let (preset, zero_points) = (self.preset.unwrap_or(base.preset), base.zero_points && !self.lsq);
        Ok(Some(Quantization { preset, zero_points, ..base }))
    }
}

/// How step sizes start: `lsq`, `min-max`, `mse`, `percentile` or `percentile:99.9`.
pub(crate) fn method(text: &str) -> Result<CalibrationMethod, String> {
    let percentile = |p: f64| Ok(CalibrationMethod::activations(Method::Percentile(p)));
    match text {
        "lsq" => Ok(CalibrationMethod::LSQ),
        "min-max" => Ok(CalibrationMethod::activations(Method::MinMax)),
        "mse" => Ok(CalibrationMethod::MSE),
        "percentile" => percentile(PERCENTILE),
        _ => match text.strip_prefix("percentile:").and_then(|p| p.parse().ok()).filter(|p| *p > 50.0 && *p <= 100.0) {
            Some(p) => percentile(p),
            None => Err("want lsq, min-max, mse, percentile, or percentile:P with P above 50 and at most 100".into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_count_more_than_a_configuration() {
        let args = |bits: Option<&str>, preset, lsq| BitsArgs { bits: bits.map(|b| b.parse().expect("bits")), preset, lsq };
        let configured = Quantization { zero_points: false, ..Quantization::new("3-3-8".parse().expect("bits")) };
        assert_eq!(args(None, None, false).over(None).unwrap(), None);
        assert_eq!(args(None, None, false).over(Some(configured.clone())).unwrap(), Some(configured.clone()));
        let found = args(Some("4-4-8"), Some(Preset::Release), false).over(Some(configured)).unwrap().unwrap();
        assert_eq!((found.to_string(), found.preset), ("4-4-8 (release, no zero points)".into(), Preset::Release));
        let found = args(Some("4-4-8"), None, true).over(None).unwrap().unwrap();
        assert_eq!((found.preset, found.zero_points), (Preset::Compact, false));
        assert!(matches!(args(None, None, true).over(None), Err(Error::Usage(_))));
    }

    #[test]
    fn methods_have_names() {
        assert_eq!(method("mse"), Ok(CalibrationMethod::MSE));
        assert_eq!(method("percentile").unwrap().activations, Method::Percentile(99.99));
        assert_eq!(method("percentile:99.9").unwrap().activations, Method::Percentile(99.9));
        for wrong in ["", "kl", "percentile:50", "percentile:101", "percentile:x"] {
            assert!(method(wrong).is_err(), "{wrong}");
        }
    }
}
