//! What this device can do at most, measured.

use crate::cli::bench::measure::Bench;
use crate::cli::bench::subject::numbers;
use qdetr::gpu::{Dispatch, Tier};
use qdetr::graph::Op;
use qdetr::kernels::probe::Probe;
use qdetr::{Error, Result};
use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// The best rates of the probes; `None` where the device has no such kernels.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Roofline {
    /// Copying, read and written bytes together.
    pub(super) copy_gb_s: f64,
    /// f32 multiply-adds.
    pub(super) multiply_add_tflop_s: f64,
    /// `dot4I8Packed`, a product and a sum of a byte counted as two.
    pub(super) dot_top_s: Option<f64>,
    /// Cooperative matrices, f16 with f32 sums.
    pub(super) matrix_tflop_s: Option<f64>,
    /// Cooperative matrices of bytes, i32 sums.
    pub(super) byte_matrix_top_s: Option<f64>,
}

impl Roofline {
    /// Checks the probes and runs them.
    ///
    /// # Errors
    /// [`Error::Driver`] when a probe computes something else than it should.
    pub(super) fn measure(bench: &mut Bench, quick: bool) -> Result<Self> {
        let size = |full: usize, small: usize| if quick { small } else { full };
        // More than any cache holds, within what WebGPU lets bind; milliseconds of arithmetic.
        let (vectors, n, rounds) = (size(1 << 23, 1 << 14), size(1 << 20, 1 << 10), size(64, 2));
        let (subgroups, steps) = (size(4096, 8), size(2048, 16));
        let (copy_gb_s, _) = rate(bench, Probe::Copy, vectors)?;
        let (multiply_add, _) = rate(bench, Probe::MultiplyAdd { rounds }, n)?;
        let (dot, dot_tier) = rate(bench, Probe::Dot { rounds }, n)?;
        let device = *bench.gpu.capabilities();
        let mut rate_if = |allowed: bool, probe| allowed.then(|| rate(bench, probe, n).map(|(rate, _)| rate / 1e3)).transpose();
        let matrix = rate_if(device.allows(Tier::Matrix), Probe::Matrix { subgroups, rounds: steps })?;
        let byte_matrix = rate_if(device.allows_bytes(), Probe::ByteMatrix { subgroups, rounds: steps })?;
        Ok(Self {
            copy_gb_s,
            multiply_add_tflop_s: multiply_add / 1e3,
            dot_top_s: (dot_tier == Tier::Packed).then_some(dot / 1e3),
            matrix_tflop_s: matrix,
            byte_matrix_top_s: byte_matrix,
        })
    }

    /// Operations a microsecond (in millions: TFLOP/s) that a kernel's instructions can reach.
    fn peak(&self, kernel: &Dispatch) -> f64 {
        let peak = match kernel.tier {
            Tier::Portable => None,
            Tier::Packed => self.dot_top_s,
            Tier::Matrix if kernel.bytes => self.byte_matrix_top_s,
            Tier::Matrix => self.matrix_tflop_s,
        };
        peak.unwrap_or(self.multiply_add_tflop_s)
    }

    /// Microseconds that the device needs at least: for all bytes once, or for all operations.
    pub(super) fn attainable_us(&self, kernel: &Dispatch, bytes: u64, operations: u64) -> f64 {
        (bytes as f64 / (self.copy_gb_s * 1e3)).max(operations as f64 / (self.peak(kernel) * 1e6))
    }

    /// The arithmetic roofs, with names.
    pub(super) fn peaks(&self) -> Vec<(&'static str, f64)> {
        let optional =
            [("matrices, bytes", self.byte_matrix_top_s), ("matrices, f16", self.matrix_tflop_s), ("dot4I8Packed", self.dot_top_s)];
        let optional = optional.into_iter().filter_map(|(name, peak)| Some((name, peak?)));
        optional.chain([("multiply-add, f32", self.multiply_add_tflop_s)]).collect()
    }
}

/// Billions of operations (of bytes, for copies) a second in the fastest run of the best kernel of a probe.
fn rate(bench: &mut Bench, probe: Probe, n: usize) -> Result<(f64, Tier)> {
    let types = probe.inputs(n);
    let outputs = probe.outputs(&types);
    let kernel = probe.kernels(&types, &outputs, bench.gpu.capabilities()).swap_remove(0);
    if let Some(wrong) = bench.check(probe.name(), &kernel)? {
        return Err(Error::Driver(format!("{} computes wrongly: {wrong}", kernel.source.name)));
    }
    let inputs = numbers(&types, false);
    let work = match probe.operations(&types, &outputs) {
        0 => types.iter().chain(&outputs).map(|t| t.bytes() as u64).sum(),
        operations => operations,
    };
    let op: Arc<dyn Op> = Arc::new(probe);
    Ok((work as f64 / (bench.time(&op, &inputs, 0)?.min * 1e3), kernel.tier))
}

impl fmt::Display for Roofline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "copies {:.1} GB/s", self.copy_gb_s)?;
        self.peaks().iter().rev().try_for_each(|(name, peak)| write!(f, ", {name} {peak:.3} T/s"))
    }
}
