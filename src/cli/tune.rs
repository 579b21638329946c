//! `qdetr tune`: times every kernel of a detector's nodes on this GPU, and keeps which ones are faster than the default.

use super::DeviceArgs;
use super::bench::measure::{Bench, label};
use super::bench::subject::{Collected, Subject};
use super::model::{ModelArgs, SizeArgs};
use super::output::{print, print_json, progress};
use clap::Args;
use qdetr::gpu::{Dispatch, Tier, Tuned};
use qdetr::models::Results;
use qdetr::nn::Precision;
use qdetr::{Error, Result};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// How many times faster than the default a kernel must be: less is within what one run differs from another.
const WORTH: f64 = 1.03;

/// Arguments of `qdetr tune`.
#[derive(Args)]
pub(crate) struct Tune {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    size: SizeArgs,
    /// How many runs of each kernel to time
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// Print JSON, with all kernels
    #[arg(long)]
    json: bool,
    /// Remove what was kept, for all GPUs
    #[arg(long, conflicts_with_all = ["model", "preset", "bits", "precision", "size", "batch", "runs", "json"])]
    forget: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    precision: Precision,
    images: usize,
    height: usize,
    width: usize,
    gpu: String,
    driver: String,
    tier: Tier,
    runs: u32,
    clock: &'static str,
    /// Distinct nodes with more than one kernel.
    nodes: Vec<Node>,
    /// Microseconds of all these nodes, each as often as it stands in the model, with the default kernels …
    before_us: f64,
    /// … and with the chosen ones.
    after_us: f64,
    /// Where the choices are kept.
    file: PathBuf,
}

#[derive(Serialize)]
struct Node {
    op: &'static str,
    /// Op, attributes and input types.
    name: String,
    /// The first input's type.
    input: String,
    /// The first output's type.
    output: String,
    /// How often it stands in the model.
    uses: usize,
    /// The default first.
    kernels: Vec<Timed>,
    chosen: usize,
}

#[derive(Serialize)]
struct Timed {
    kernel: String,
    /// What is wrong with its results; then it is not timed and never chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    wrong: Option<String>,
    /// The median.
    time_us: Option<f64>,
}

impl Tune {
    pub(crate) fn run(&self, device: &DeviceArgs) -> Result<ExitCode> {
        let nowhere = || Error::Usage("there is no folder to keep choices in: let QDETR_CACHE name one".into());
        let file = Tuned::file().ok_or_else(nowhere)?;
        if self.forget {
            return forget(&file);
        }
        let model = self.model.load_or("detr-resnet50")?;
        let (name, precision, size) = (model.name.clone(), model.precision, self.size.size());
        let gpu = device.open_for(precision, model.config.quantization.is_some())?;
        let mut distinct = Collected::default();
        distinct.graph("model", model.detector(&gpu, Results::Answers)?.plan(size)?.graph(), false);
        let mut tuned = Tuned::read(&file);
        // Tells before the work what would else be found out after it.
        tuned.write(&file)?;
        let mut bench = Bench::new(gpu, self.runs as usize);
        let subjects = distinct.subjects.into_iter().map(|subject| (bench.kernels(&subject), subject));
        let subjects: Vec<(Vec<Dispatch>, Subject)> = subjects.filter(|(kernels, _)| kernels.len() > 1).collect();
        let bar = progress(subjects.len());
        let mut nodes = Vec::new();
        for (kernels, subject) in &subjects {
            let node = Node::measure(&mut bench, subject, kernels)?;
            tuned.choose(&bench.gpu, subject.name(), kernels, node.chosen);
            nodes.push(node);
            bar.inc(1);
        }
        bar.finish_and_clear();
        tuned.write(&file)?;
        let total = |kernel: fn(&Node) -> usize| nodes.iter().map(|n| n.uses as f64 * n.kernels[kernel(n)].time_us.unwrap_or(0.0)).sum();
        let (info, capabilities) = (bench.gpu.info(), bench.gpu.capabilities());
        let report = Report {
            model: name,
            precision,
            images: size.images,
            height: size.height,
            width: size.width,
            gpu: info.name.clone(),
            driver: format!("{} {}", info.driver, info.driver_info),
            tier: capabilities.tier,
            runs: self.runs,
            clock: bench.clock(),
            before_us: total(|_| 0),
            after_us: total(|node| node.chosen),
            nodes,
            file,
        };
        if self.json {
            print_json(&report)?
        } else {
            print(&report)?
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn forget(file: &Path) -> Result<ExitCode> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => print(format_args!("nothing is kept in {}\n", file.display()))?,
        removed => {
            removed.map_err(Error::io(file))?;
            print(format_args!("removed {}\n", file.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Node {
    /// Times the kernels that are right.
    fn measure(bench: &mut Bench, subject: &Subject, kernels: &[Dispatch]) -> Result<Self> {
        let (op, inputs, mut timed) = (subject.op.name(), subject.inputs(), Vec::new());
        for (variant, kernel) in kernels.iter().enumerate() {
            let wrong = bench.check(op, kernel)?;
            let time_us = if wrong.is_none() { Some(bench.time(&subject.op, &inputs, variant)?.median) } else { None };
            timed.push(Timed { kernel: label(kernel), wrong, time_us });
        }
        let chosen = choose(&timed.iter().map(|t| t.time_us).collect::<Vec<_>>());
        let [input, output] = [subject.types[0], subject.outputs()[0]].map(|t| t.to_string());
        Ok(Self { op, name: subject.name(), input, output, uses: subject.uses.values().sum(), kernels: timed, chosen })
    }
}

/// The fastest kernel, where it is worth it; the default is the first. Without a time are kernels that are wrong.
fn choose(times: &[Option<f64>]) -> usize {
    let timed = times.iter().enumerate().filter_map(|(i, &time)| Some((i, time?)));
    let fastest = timed.min_by(|a, b| a.1.total_cmp(&b.1));
    fastest.zip(times[0]).filter(|((_, time), default)| time * WORTH <= *default).map_or(0, |((index, _), _)| index)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, height, width, before_us, after_us, .. } = self;
        writeln!(f, "{}, {}, {images} × {height} × {width}", self.model, self.precision.dtype())?;
        writeln!(f, "{} ({}), {} tier; medians of {} runs by {}", self.gpu, self.driver.trim(), self.tier, self.runs, self.clock)?;
        let chosen: Vec<&Node> = self.nodes.iter().filter(|node| node.chosen > 0).collect();
        for node in &chosen {
            let [default, chosen] = [0, node.chosen].map(|i| (&node.kernels[i].kernel, node.kernels[i].time_us.unwrap_or(0.0)));
            let Node { op, input, output, uses, .. } = node;
            writeln!(f, "{uses:3} × {op} {input} -> {output}")?;
            let less = percent_less(default.1, chosen.1);
            writeln!(f, "      {} {:.1} µs -> {} {:.1} µs, {less:.1} % less", default.0, default.1, chosen.0, chosen.1)?;
        }
        let wrong = |timed: &Timed| timed.wrong.as_ref().map(|what| format!("{}: {what}", timed.kernel));
        let wrong: BTreeSet<String> = self.nodes.iter().flat_map(|node| &node.kernels).filter_map(wrong).collect();
        wrong.iter().try_for_each(|what| writeln!(f, "left out: {what}"))?;
        let less = percent_less(*before_us, *after_us);
        writeln!(
            f,
            "{} of {} kinds of node changed: {before_us:.0} µs -> {after_us:.0} µs, {less:.1} % less",
            chosen.len(),
            self.nodes.len()
        )?;
        writeln!(f, "kept in {}; used with --tuned", self.file.display())
    }
}

fn percent_less(before: f64, after: f64) -> f64 {
    if before > 0.0 { 100.0 * (1.0 - after / before) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_chosen_where_it_is_worth_it_and_right() {
        for (times, chosen) in [
            (vec![Some(10.0), Some(9.0), Some(8.0)], 2),
            (vec![Some(10.0), Some(9.8)], 0),
            (vec![Some(10.0), None, Some(9.0)], 2),
            (vec![None, Some(9.0)], 0),
            (vec![Some(8.0), Some(9.0)], 0),
        ] {
            assert_eq!(choose(&times), chosen, "{times:?}");
        }
    }
}
