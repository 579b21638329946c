//! `qdetr bench`: how fast, and where the time goes.

mod kernels;
pub(crate) mod measure;
mod model;
mod profile;
pub(crate) mod subject;
mod train;

use super::DeviceArgs;
use clap::{Args, Subcommand};
use qdetr::Result;
use qdetr::graph::Plan;
use serde::Serialize;
use std::fmt;
use std::process::ExitCode;

/// Arguments of `qdetr bench`.
#[derive(Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// A detector's forward: time, memory, and with --profile the time of each step
    Model(model::BenchModel),
    /// Every kernel at the sizes of real models: time, rates, and how near the device's own limits
    Kernels(kernels::BenchKernels),
    /// A training step: time, memory, and with --profile the time of each kernel launch
    Train(train::BenchTrain),
}

impl Bench {
    pub(crate) fn run(&self, device: &DeviceArgs) -> Result<ExitCode> {
        match &self.what {
            What::Model(args) => args.run(device),
            What::Kernels(args) => args.run(device),
            What::Train(args) => args.run(device),
        }
    }
}

/// Times in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Times {
    pub(crate) median: f64,
    min: f64,
    max: f64,
}

impl Times {
    /// # Panics
    /// Without a time.
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self { median: times[times.len() / 2], min: times[0], max: times[times.len() - 1] }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ms ({:.3} to {:.3})", self.median, self.min, self.max)
    }
}

/// Arithmetic operations of a run.
fn operations(plan: &Plan) -> u64 {
    let graph = plan.graph();
    graph.nodes().iter().map(|n| n.op.operations(&graph.types(&n.inputs), &graph.types(&n.outputs))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_no_mean() {
        let times = Times::of(vec![9.0, 1.0, 2.0]);
        assert_eq!((times.median, times.min, times.max), (2.0, 1.0, 9.0));
    }
}
