//! Where the time of a run goes: steps by timestamp, summed by op.

use qdetr::Result;
use qdetr::graph::{Plan, StepTime, least_step_us};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Each step's time is the median of so many runs.
const RUNS: usize = 5;

/// Times of steps.
#[derive(Serialize)]
pub(super) struct Profile {
    /// Sum of the steps; a run can take less, since its steps overlap.
    total_us: f64,
    /// What the least step takes when it is timed like these; each has it.
    least_step_us: f64,
    ops: Vec<OpTime>,
    /// The slowest steps.
    steps: Vec<StepTime>,
}

/// All steps of one op on one kernel.
#[derive(Serialize)]
struct OpTime {
    op: &'static str,
    kernel: &'static str,
    steps: usize,
    time_us: f64,
    operations: u64,
    bytes: u64,
}

impl OpTime {
    /// Its time without as many least steps; none where hardly anything would be left.
    fn net_us(&self, least_step_us: f64) -> Option<f64> {
        let net = self.time_us - self.steps as f64 * least_step_us;
        (net > 0.2 * self.time_us).then_some(net)
    }
}

/// Times the steps of a plan.
///
/// # Errors
/// As [`Plan::profile`].
pub(super) fn of(plan: &Plan, top: usize) -> Result<Profile> {
    let runs = (0..RUNS).map(|_| plan.profile()).collect::<Result<Vec<_>>>()?;
    let mut steps = runs[0].clone();
    for (i, step) in steps.iter_mut().enumerate() {
        let mut times: Vec<f64> = runs.iter().map(|run| run[i].time_us).collect();
        times.sort_by(f64::total_cmp);
        step.time_us = times[RUNS / 2];
    }
    let mut by_op: BTreeMap<(&str, &str), OpTime> = BTreeMap::new();
    for step in &steps {
        let (op, kernel) = (step.op, step.kernel);
        let sum = by_op.entry((op, kernel)).or_insert(OpTime { op, kernel, steps: 0, time_us: 0.0, operations: 0, bytes: 0 });
        sum.steps += 1;
        sum.time_us += step.time_us;
        sum.operations += step.operations;
        sum.bytes += step.bytes;
    }
    let mut ops: Vec<OpTime> = by_op.into_values().collect();
    ops.sort_by(|a, b| b.time_us.total_cmp(&a.time_us));
    let (total_us, least_step_us) = (steps.iter().map(|s| s.time_us).sum(), least_step_us(plan.gpu())?);
    steps.sort_by(|a, b| b.time_us.total_cmp(&a.time_us));
    steps.truncate(top);
    Ok(Profile { total_us, least_step_us, ops, steps })
}

/// GFLOP/s and GB/s, or nothing where there is no time.
fn rates(operations: u64, bytes: u64, time_us: f64) -> (f64, f64) {
    let per_ns = |n: u64| if time_us > 0.0 { n as f64 / (time_us * 1e3) } else { 0.0 };
    (per_ns(operations), per_ns(bytes))
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { total_us, least_step_us, .. } = *self;
        writeln!(
            f,
            "\n{:14} {:28} {:>5} {:>11} {:>6} {:>9} {:>8} {:>8}",
            "op", "kernel", "steps", "µs", "share", "GFLOP/s", "GB/s", "net"
        )?;
        for op in &self.ops {
            let (flops, rate) = rates(op.operations, op.bytes, op.time_us);
            let share = 100.0 * op.time_us / total_us;
            write!(f, "{:14} {:28} {:>5} {:>11.1} {share:>5.1}% {flops:>9.1} {rate:>8.1}", op.op, op.kernel, op.steps, op.time_us)?;
            match op.net_us(least_step_us) {
                Some(net) => writeln!(f, " {:>8.1}", rates(0, op.bytes, net).1)?,
                None => writeln!(f, " {:>8}", "-")?,
            }
        }
        writeln!(f, "{:14} {:28} {:>5} {:>11.1}", "all", "", self.ops.iter().map(|op| op.steps).sum::<usize>(), total_us)?;
        writeln!(f, "net: GB/s without the {least_step_us:.1} µs of a step that reads and writes one number, timed like these\n")?;
        writeln!(f, "{:14} {:28} {:>11} {:>9} {:>8}  where", "slowest steps", "result", "µs", "GFLOP/s", "GB/s")?;
        for step in &self.steps {
            let (flops, rate) = rates(step.operations, step.bytes, step.time_us);
            writeln!(f, "{:14} {:28} {:>11.1} {flops:>9.1} {rate:>8.1}  {}", step.op, step.output, step.time_us, step.scope)?;
        }
        Ok(())
    }
}
