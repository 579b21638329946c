//! `qdetr check`: every kernel of the op table on this GPU against its twin on the CPU.

use super::DeviceArgs;
use super::output::{print, print_json, progress};
use clap::Args;
use indicatif::ProgressBar;
use qdetr::gpu::{Gpu, Tier};
use qdetr::graph::check::{Case, check_case};
use qdetr::kernels::TABLE;
use qdetr::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;
use std::time::Instant;

/// Arguments of `qdetr check`.
#[derive(Args)]
pub(crate) struct Check {
    /// Only cases whose name contains this text, such as `conv` or the name that a failure prints
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// Only a few cases of each family: seconds instead of minutes on a slow GPU
    #[arg(long)]
    quick: bool,
    /// Only every N-th case of each family from the I-th on: for several GPUs at once, 1/4 to 4/4
    #[arg(long, value_name = "I/N", value_parser = part, default_value = "1/1")]
    part: (usize, usize),
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn part(text: &str) -> Result<(usize, usize), String> {
    let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    numbers.filter(|&(i, n)| 0 < i && i <= n).ok_or_else(|| "want a part such as 1/4".into())
}

/// Cases of each family in a quick check, at most.
const QUICK: usize = 5;

/// Skipped cases that are printed by name for each reason; JSON has all.
const SHOWN: usize = 5;

/// The verdict on a device.
#[derive(Serialize)]
struct Report {
    gpu: String,
    driver: String,
    tier: Tier,
    cases: usize,
    kernels: usize,
    failures: usize,
    skipped: usize,
    seconds: f64,
    families: Vec<FamilyReport>,
}

/// The verdict on a family of kernels.
#[derive(Serialize)]
struct FamilyReport {
    name: &'static str,
    cases: usize,
    kernels: usize,
    /// Largest absolute error of the kernels that passed.
    worst_error: f32,
    seconds: f64,
    failures: Vec<Failure>,
    skipped: Vec<Skipped>,
}

#[derive(Serialize)]
struct Failure {
    case: String,
    kernel: &'static str,
    what: String,
    /// The command that runs this case alone.
    rerun: String,
}

#[derive(Serialize)]
struct Skipped {
    case: String,
    reason: String,
}

impl Check {
    pub(crate) fn run(&self, device: &DeviceArgs) -> Result<ExitCode> {
        let gpu = device.open()?;
        let started = Instant::now();
        let families: Vec<(&'static str, Vec<Case>)> = TABLE.iter().map(|f| (f.name, self.selected(&gpu, (f.cases)()))).collect();
        let cases: usize = families.iter().map(|f| f.1.len()).sum();
        if cases == 0 {
            let ops: Vec<_> = TABLE.iter().map(|f| f.name).collect();
            return Err(Error::Usage(format!("no case's name contains `{}`; names begin with one of: {}", self.filter, ops.join(", "))));
        }
        let bar = progress(cases);
        let run = |(name, cases): (_, Vec<Case>)| check_family(&gpu, name, &cases, &bar);
        let families: Vec<FamilyReport> = families.into_iter().filter(|f| !f.1.is_empty()).map(run).collect::<Result<_>>()?;
        bar.finish_and_clear();
        let info = gpu.info();
        let report = Report {
            gpu: info.name.clone(),
            driver: format!("{} {}", info.driver, info.driver_info),
            tier: gpu.capabilities().tier,
            cases,
            kernels: families.iter().map(|f| f.kernels).sum(),
            failures: families.iter().map(|f| f.failures.len()).sum(),
            skipped: families.iter().map(|f| f.skipped.len()).sum(),
            seconds: started.elapsed().as_secs_f64(),
            families,
        };
        if self.json {
            print_json(&report)?
        } else {
            print(&report)?
        }
        Ok(if report.failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// The cases asked for; a quick check takes them from all over the list, which begins with the smallest.
    fn selected(&self, gpu: &Gpu, mut cases: Vec<Case>) -> Vec<Case> {
        cases.retain(|case| case.name().contains(&self.filter));
        let (i, n) = self.part;
        let mut cases: Vec<Case> = cases.into_iter().skip(i - 1).step_by(n).collect();
        if !self.quick {
            return cases;
        }
        cases.retain(|case| reason_to_skip(gpu, case).is_none());
        let step = cases.len().div_ceil(QUICK).max(1);
        cases.into_iter().step_by(step).collect()
    }
}

fn reason_to_skip(gpu: &Gpu, case: &Case) -> Option<&'static str> {
    (case.needs_f16() && !gpu.capabilities().f16).then_some("this GPU has no f16")
}

fn check_family(gpu: &Gpu, name: &'static str, cases: &[Case], bar: &ProgressBar) -> Result<FamilyReport> {
    let started = Instant::now();
    let mut report =
        FamilyReport { name, cases: cases.len(), kernels: 0, worst_error: 0.0, seconds: 0.0, failures: Vec::new(), skipped: Vec::new() };
    bar.set_message(name);
    for case in cases {
        report.add(gpu, case)?;
        bar.inc(1);
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

impl FamilyReport {
    /// Runs one case. Only a device that is lost ends the whole check.
    fn add(&mut self, gpu: &Gpu, case: &Case) -> Result<()> {
        if let Some(reason) = reason_to_skip(gpu, case) {
            self.skipped.push(Skipped { case: case.name(), reason: reason.into() });
            return Ok(());
        }
        let outcomes = match check_case(gpu, case) {
            Ok(outcomes) => outcomes,
            Err(Error::OutOfMemory(what)) => {
                self.skipped.push(Skipped { case: case.name(), reason: what });
                return gpu.wait();
            }
            Err(Error::Driver(what)) => {
                self.fail(case, "compilation", what);
                return gpu.wait();
            }
            Err(other) => return Err(other),
        };
        for outcome in outcomes {
            self.kernels += 1;
            match outcome.result {
                Ok(error) => self.worst_error = self.worst_error.max(error),
                Err(what) => self.fail(case, outcome.kernel, what),
            }
        }
        Ok(())
    }

    fn fail(&mut self, case: &Case, kernel: &'static str, what: String) {
        let case = case.name();
        let rerun = format!("qdetr check --filter '{case}'");
        self.failures.push(Failure { case, kernel, what, rerun });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({}), {} tier", self.gpu, self.driver.trim(), self.tier)?;
        writeln!(
            f,
            "{:16} {:>6} {:>8} {:>8} {:>8} {:>12} {:>8}",
            "family", "cases", "kernels", "wrong", "skipped", "worst error", "seconds"
        )?;
        for family in &self.families {
            let (wrong, skipped) = (family.failures.len(), family.skipped.len());
            let FamilyReport { name, cases, kernels, worst_error, seconds, .. } = family;
            writeln!(f, "{name:16} {cases:>6} {kernels:>8} {wrong:>8} {skipped:>8} {worst_error:>12.1e} {seconds:>8.1}")?;
        }
        let mut skipped: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for one in self.families.iter().flat_map(|f| &f.skipped) {
            skipped.entry(&one.reason).or_default().push(&one.case);
        }
        for (reason, cases) in skipped {
            writeln!(f, "skipped {} cases, {reason}:", cases.len())?;
            cases.iter().take(SHOWN).try_for_each(|case| writeln!(f, "  {case}"))?;
            if cases.len() > SHOWN {
                writeln!(f, "  … (--json names all)")?;
            }
        }
        for failure in self.families.iter().flat_map(|f| &f.failures) {
            writeln!(f, "WRONG: {} [{}]: {}\n       again: {}", failure.case, failure.kernel, failure.what, failure.rerun)?;
        }
        match self.failures {
            0 => writeln!(f, "all {} kernels agree with their CPU twins ({:.1} s)", self.kernels, self.seconds),
            n => writeln!(f, "{n} of {} kernels are wrong on this GPU: a driver's bug or ours; please report it", self.kernels),
        }
    }
}
