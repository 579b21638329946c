//! What is told of a run.

use super::compare::Comparison;
use super::roofline::Roofline;
use crate::cli::bench::Times;
use qdetr::draw::roofline::{Chart, Point};
use qdetr::gpu::Tier;
use qdetr::nn::Precision;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};

#[derive(Serialize)]
pub(super) struct Report {
    pub(super) gpu: String,
    pub(super) driver: String,
    pub(super) tier: Tier,
    pub(super) precision: Precision,
    pub(super) batch: usize,
    pub(super) runs: usize,
    /// Whose clock: the GPU's timestamps, or the host's, which counts submitting and waiting too.
    pub(super) clock: &'static str,
    /// Whether shaders carry wgpu's run-time checks.
    pub(super) checked: bool,
    /// Seconds since 1970.
    pub(super) time: u64,
    pub(super) roofline: Roofline,
    pub(super) cases: Vec<CaseReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) comparison: Option<Comparison>,
}

/// An op on given types.
#[derive(Serialize)]
pub(super) struct CaseReport {
    /// Op, attributes and input types.
    pub(super) name: String,
    pub(super) op: &'static str,
    /// The first input's type.
    pub(super) input: String,
    /// The first output's type.
    pub(super) output: String,
    /// How often it stands in which graph.
    pub(super) uses: BTreeMap<&'static str, usize>,
    /// Of all inputs and outputs, each once.
    pub(super) bytes: u64,
    pub(super) operations: u64,
    /// The chosen one first; the last one is the user's, if there is one.
    pub(super) kernels: Vec<KernelReport>,
}

/// One kernel for it.
#[derive(Serialize)]
pub(super) struct KernelReport {
    pub(super) kernel: String,
    pub(super) tier: Tier,
    /// What is wrong with its results; then it is not timed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) wrong: Option<String>,
    pub(super) compile_ms: f64,
    pub(super) time_us: Option<Times>,
    pub(super) gb_s: f64,
    pub(super) tflop_s: f64,
    /// The time that the device needs at least by its roofline, in percent of the time taken.
    pub(super) roofline_percent: f64,
}

impl KernelReport {
    /// The report on a right kernel.
    pub(super) fn timed(kernel: String, tier: Tier, compile_ms: f64, time: Times, work: [u64; 2], attainable_us: f64) -> Self {
        // A clock may stand still.
        let us = time.median.max(1e-3);
        let [bytes, operations] = work.map(|n| n as f64 / us);
        Self {
            kernel,
            tier,
            wrong: None,
            compile_ms,
            time_us: Some(time),
            gb_s: bytes / 1e3,
            tflop_s: operations / 1e6,
            roofline_percent: 100.0 * attainable_us / us,
        }
    }
}

impl Report {
    /// Kernels that computed something wrong.
    pub(super) fn wrong(&self) -> impl Iterator<Item = (&CaseReport, &KernelReport)> {
        let kernels = self.cases.iter().flat_map(|case| case.kernels.iter().map(move |kernel| (case, kernel)));
        kernels.filter(|(_, kernel)| kernel.wrong.is_some())
    }

    /// One line a kernel.
    pub(super) fn write_csv(&self, file: &mut dyn Write) -> io::Result<()> {
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        writeln!(file, "case,op,uses,kernel,tier,rank,compile_ms,median_us,min_us,max_us,bytes,operations,gb_s,tflop_s,roofline_percent")?;
        for case in &self.cases {
            for (rank, k) in case.kernels.iter().enumerate() {
                let [median, min, max] = k
                    .time_us
                    .map_or([String::new(), String::new(), String::new()], |t| [t.median, t.min, t.max].map(|us| format!("{us:.3}")));
                let (name, uses, kernel) = (quoted(&case.name), case.uses.values().sum::<usize>(), quoted(&k.kernel));
                write!(file, "{name},{},{uses},{kernel},{},{rank},{:.3},{median},{min},{max},", case.op, k.tier, k.compile_ms)?;
                writeln!(file, "{},{},{:.3},{:.6},{:.2}", case.bytes, case.operations, k.gb_s, k.tflop_s, k.roofline_percent)?;
            }
        }
        Ok(())
    }

    /// The chosen kernels that compute under the roofs.
    pub(super) fn chart(&self) -> Chart<'_> {
        let point = |case: &CaseReport| {
            let kernel = case.kernels.first().filter(|k| k.time_us.is_some())?;
            let intensity = case.operations as f64 / case.bytes as f64;
            (case.operations > 0).then_some(Point { intensity, tflop_s: kernel.tflop_s, series: kernel.tier as usize })
        };
        Chart {
            title: format!("{}, {}, batch {}", self.gpu, self.precision.dtype(), self.batch),
            gb_s: self.roofline.copy_gb_s,
            peaks: self.roofline.peaks(),
            series: [Tier::Portable, Tier::Packed, Tier::Matrix].map(|tier| format!("{tier} kernels")).to_vec(),
            points: self.cases.iter().filter_map(point).collect(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "gpu      {} ({}), {} tier", self.gpu, self.driver.trim(), self.tier)?;
        let checks = if self.checked { ", with run-time checks in the shaders" } else { "" };
        writeln!(f, "times    median of {} runs by {}{checks}", self.runs, self.clock)?;
        writeln!(f, "roofline {}", self.roofline)?;
        writeln!(
            f,
            "\n{:22} {:52} {:>10} {:>9} {:>9} {:>8} {:>8} {:>6} {:>8} {:>5}  case",
            "op", "kernel", "µs", "min", "max", "GB/s", "TFLOP/s", "roof", "compile", "uses"
        )?;
        for case in &self.cases {
            for (rank, kernel) in case.kernels.iter().enumerate() {
                let op = if rank == 0 { case.op } else { "  or" };
                write!(f, "{op:22} {:52} ", kernel.kernel)?;
                let (Some(t), None) = (kernel.time_us, &kernel.wrong) else {
                    writeln!(f, "WRONG: {}", kernel.wrong.as_deref().unwrap_or_default())?;
                    continue;
                };
                write!(f, "{:>10.1} {:>9.1} {:>9.1} {:>8.1} {:>8.3} ", t.median, t.min, t.max, kernel.gb_s, kernel.tflop_s)?;
                write!(f, "{:>5.1}% {:>5.0} ms ", kernel.roofline_percent, kernel.compile_ms)?;
                match rank {
                    0 => writeln!(f, "{:>5}  {} -> {}", case.uses.values().sum::<usize>(), case.input, case.output)?,
                    _ => writeln!(f)?,
                }
            }
        }
        self.comparison.iter().try_for_each(|comparison| write!(f, "{comparison}"))
    }
}
