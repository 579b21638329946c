//! Today's times beside those of an earlier report.

use super::report::Report;
use qdetr::files::read_text;
use qdetr::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The most that is read of a report.
const MAX_BYTES: u64 = 64 << 20;

/// What is read of an earlier report.
#[derive(Deserialize)]
struct Earlier {
    gpu: String,
    cases: Vec<EarlierCase>,
}

#[derive(Deserialize)]
struct EarlierCase {
    name: String,
    kernels: Vec<EarlierKernel>,
}

#[derive(Deserialize)]
struct EarlierKernel {
    time_us: Option<EarlierTime>,
}

#[derive(Deserialize)]
struct EarlierTime {
    median: f64,
}

/// The chosen kernels then and now.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Comparison {
    /// The earlier GPU, when it is another one.
    pub(super) other_gpu: Option<String>,
    threshold: f64,
    /// The slowest first.
    pub(super) ratios: Vec<Ratio>,
    /// Cases that only one of the reports has a time for.
    unmatched: usize,
    /// Geometric mean.
    mean: f64,
}

/// One case.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Ratio {
    name: String,
    before_us: f64,
    after_us: f64,
    /// After by before: above 1 is slower.
    pub(super) ratio: f64,
}

impl Comparison {
    /// Compares a report with an earlier one in a file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] when the file is no such report or has no case in common.
    pub(super) fn of(report: &Report, path: &Path, threshold: f64) -> Result<Self> {
        let text = read_text(path, MAX_BYTES)?;
        let earlier: Earlier = serde_json::from_str(&text)
            .map_err(|e| Error::format(path, format!("expected what `qdetr bench kernels --json` prints, found: {e}")))?;
        let median = |case: &EarlierCase| Some((case.name.clone(), case.kernels.first()?.time_us.as_ref()?.median));
        let before: BTreeMap<String, f64> = earlier.cases.iter().filter_map(median).collect();
        let median = |case: &super::report::CaseReport| Some((case.name.clone(), case.kernels.first()?.time_us?.median));
        let after: BTreeMap<String, f64> = report.cases.iter().filter_map(median).collect();
        let compared = Self::between(&before, &after, threshold);
        if compared.ratios.is_empty() {
            return Err(Error::format(
                path,
                "has no case in common with this run: use the same --batch, --precision, --filter and --quick",
            ));
        }
        Ok(Self { other_gpu: (earlier.gpu != report.gpu).then_some(earlier.gpu), ..compared })
    }

    fn between(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>, threshold: f64) -> Self {
        let pair = |(name, &after_us): (&String, &f64)| {
            let &before_us = before.get(name)?;
            // A clock that stood still tells nothing of the ratio.
            (before_us > 0.0 && after_us > 0.0).then(|| Ratio { name: name.clone(), before_us, after_us, ratio: after_us / before_us })
        };
        let mut ratios: Vec<Ratio> = after.iter().filter_map(pair).collect();
        ratios.sort_by(|a, b| b.ratio.total_cmp(&a.ratio));
        let logs: f64 = ratios.iter().map(|r| r.ratio.ln()).sum();
        let mean = (logs / ratios.len().max(1) as f64).exp();
        let unmatched = before.len() + after.len() - 2 * ratios.len();
        Self { other_gpu: None, threshold, ratios, unmatched, mean }
    }

    /// How many cases are slower than the threshold allows.
    pub(super) fn slower(&self) -> usize {
        self.ratios.iter().filter(|r| r.ratio > self.threshold).count()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:>6} {:>11} {:>11}  case", "ratio", "before µs", "after µs")?;
        for Ratio { name, before_us, after_us, ratio } in &self.ratios {
            let mark = if *ratio > self.threshold { "  SLOWER" } else { "" };
            writeln!(f, "{ratio:>6.3} {before_us:>11.1} {after_us:>11.1}  {name}{mark}")?;
        }
        let (slower, of, unmatched) = (self.slower(), self.ratios.len(), self.unmatched);
        writeln!(f, "mean {:.3}; {slower} of {of} slower than {} times; {unmatched} without a counterpart", self.mean, self.threshold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(all: &[(&str, f64)]) -> BTreeMap<String, f64> {
        all.iter().map(|&(name, us)| (name.to_owned(), us)).collect()
    }

    #[test]
    fn the_slowest_is_first_and_only_what_passes_the_threshold_counts() {
        let before = times(&[("a", 10.0), ("b", 10.0), ("c", 10.0), ("gone", 1.0)]);
        let after = times(&[("a", 5.0), ("b", 11.0), ("c", 20.0), ("new", 1.0), ("newer", 2.0)]);
        let found = Comparison::between(&before, &after, 1.1);
        let order: Vec<(&str, f64)> = found.ratios.iter().map(|r| (r.name.as_str(), r.ratio)).collect();
        assert_eq!(order, [("c", 2.0), ("b", 1.1), ("a", 0.5)]);
        assert_eq!((found.slower(), found.unmatched), (1, 3));
        assert!((found.mean - 1.1f64.powf(1.0 / 3.0)).abs() < 1e-12);
        assert!(found.to_string().contains("c  SLOWER") && !found.to_string().contains("b  SLOWER"));
    }

    #[test]
    fn a_clock_that_stood_still_is_no_ratio() {
        let found = Comparison::between(&times(&[("a", 0.0), ("b", 1.0)]), &times(&[("a", 1.0), ("b", 0.0)]), 1.1);
        assert!(found.ratios.is_empty() && found.unmatched == 4 && found.mean == 1.0);
    }
}
