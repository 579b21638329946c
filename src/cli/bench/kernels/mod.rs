//! `qdetr bench kernels`: every kernel at the sizes of real models, checked before it is timed, against the device's own limits.
//!
//! Bytes are those of all inputs and outputs, each once; small tensors stay in the caches between runs, so that they can be
//! faster than the memory that the roofline was measured on.

mod compare;
mod own;
mod report;
mod roofline;
pub(super) mod subjects;

use super::measure::{Bench, label};
use super::subject::Subject;
use crate::cli::DeviceArgs;
use crate::cli::output::{print, print_json, progress};
use clap::Args;
use compare::Comparison;
use own::Own;
use qdetr::data::image;
use qdetr::files::write_whole;
use qdetr::gpu::{Capabilities, Dispatch, Gpu, Options};
use qdetr::kernels::TABLE;
use qdetr::nn::Precision;
use qdetr::tensor::Host;
use qdetr::{Error, Result, draw};
use report::{CaseReport, KernelReport, Report};
use roofline::Roofline;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use subjects::{Sizes, products, subjects};

/// Arguments of `qdetr bench kernels`.
#[derive(Args)]
pub(crate) struct BenchKernels {
    /// Only cases whose name contains this text, such as `conv` or a name that --json prints
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Pictures in a batch
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// What the networks compute in
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// Time one product of these sizes instead, in floats of the precision and on 4-bit codes, such as 4096x4096x4096
    #[arg(long, value_name = "ROWSxTERMSxCOLUMNS", value_parser = product, conflicts_with_all = ["batch", "quick"])]
    product: Option<[usize; 3]>,
    /// How many runs of each kernel to time
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// Small sizes, for drivers that run on the CPU
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also write a table, one line a kernel
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Also draw the chosen kernels under the device's roofline, as PNG or JPEG
    #[arg(long, value_name = "FILE.png")]
    plot: Option<PathBuf>,
    /// Compare with what an earlier run printed as JSON; exit with 1 when a case got slower
    #[arg(long, value_name = "FILE.json")]
    compare: Option<PathBuf>,
    /// How many times slower a case may be
    #[arg(long, requires = "compare", default_value_t = 1.1, value_parser = threshold)]
    threshold: f64,
    /// Also time your own version of the kernel that the filter selects: the same bindings, checked against the CPU twin first
    #[arg(long, value_name = "FILE.wgsl", requires = "filter")]
    shader: Option<PathBuf>,
}

fn threshold(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|t: &f64| t.is_finite() && *t > 0.0);
    number.ok_or_else(|| "want a number above 0, such as 1.1".into())
}

fn product(text: &str) -> Result<[usize; 3], String> {
    let sizes: Option<Vec<usize>> = text.split('x').map(|size| size.parse().ok().filter(|n| (1..=1 << 16).contains(n))).collect();
    let sizes = sizes.and_then(|sizes| <[usize; 3]>::try_from(sizes).ok()).filter(|[m, k, n]| (m * k).max(k * n).max(m * n) <= 1 << 26);
    sizes.ok_or_else(|| {
        "want ROWSxTERMSxCOLUMNS, each from 1 to 65536 and no matrix of more than 2^26 elements, such as 4096x4096x4096".into()
    })
}

impl BenchKernels {
    pub(crate) fn run(&self, device: &DeviceArgs) -> Result<ExitCode> {
        // A stranger's shader keeps the checks that ours do without; then ours keep them too, to be compared.
        let checked = self.shader.is_some();
        let gpu = Gpu::open(&Options { no_disk_cache: true, checked, ..device.options() })?;
        let mut subjects = self.selected(gpu.capabilities())?;
        self.precision.check(&gpu)?;
        subjects.retain(|subject| gpu.capabilities().f16 || !subject.needs_f16());
        let mut bench = Bench::new(gpu, self.runs as usize);
        let own = self.shader.as_deref().map(|path| Own::read(path, &bench, &mut subjects)).transpose()?;
        own.as_ref().map_or(Ok(()), |own| own.prove(&bench, &subjects))?;
        let roofline = Roofline::measure(&mut bench, self.quick)?;
        let bar = progress(subjects.len());
        let mut cases = Vec::new();
        for subject in &subjects {
            cases.push(self.case(&mut bench, &roofline, subject, own.as_ref())?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let report = self.report(&bench, roofline, cases)?;
        self.write(&report)?;
        for (case, kernel) in report.wrong() {
            eprintln!("WRONG: {} [{}]: {}", case.name, kernel.kernel, kernel.wrong.as_deref().unwrap_or_default());
        }
        let slower = report.comparison.as_ref().is_some_and(|c| c.slower() > 0);
        Ok(if slower || report.wrong().next().is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// The subjects that were asked for, on a device.
    fn selected(&self, device: &Capabilities) -> Result<Vec<Subject>> {
        let mut subjects = match self.product {
            Some(sizes) => products(sizes, self.precision),
            None => subjects(Sizes { batch: self.batch as usize, precision: self.precision, quick: self.quick }, device)?,
        };
        let filter = self.filter.as_deref().unwrap_or_default();
        subjects.retain(|subject| subject.name().contains(filter));
        if subjects.is_empty() {
            let families: Vec<_> = TABLE.iter().map(|family| family.name).filter(|name| *name != "probe").collect();
            return Err(Error::Usage(format!("no case's name contains `{filter}`; there are cases of {}", families.join(", "))));
        }
        Ok(subjects)
    }

    /// Checks and times all kernels of a subject.
    fn case(&self, bench: &mut Bench, roofline: &Roofline, subject: &Subject, own: Option<&Own<'_>>) -> Result<CaseReport> {
        let outputs = subject.outputs();
        let operations = subject.op.operations(&subject.types, &outputs);
        let bytes = subject.types.iter().chain(&outputs).map(|t| t.bytes() as u64).sum();
        let (inputs, kernels) = (subject.inputs(), bench.kernels(subject));
        let mut reports = Vec::new();
        for (variant, kernel) in kernels.iter().enumerate() {
            reports.push(time(bench, roofline, subject, &inputs, (variant, kernel), [bytes, operations])?);
        }
        if let Some(own) = own {
            let (op, path) = (own.replace(&subject.op), self.shader.as_deref().unwrap_or("".as_ref()).display().to_string());
            let kernel = &op.kernels(&subject.types, &outputs, bench.gpu.capabilities())[0];
            let (compile_ms, time) = (bench.compile_ms(kernel)?, bench.time(&op, &inputs, 0)?);
            let attainable = roofline.attainable_us(kernel, bytes, operations);
            reports.push(KernelReport::timed(path, kernel.tier, compile_ms, time, [bytes, operations], attainable));
        }
        let [input, output] = [subject.types[0], outputs[0]].map(|t| t.to_string());
        let (name, op, uses) = (subject.name(), subject.op.name(), subject.uses.clone());
        Ok(CaseReport { name, op, input, output, uses, bytes, operations, kernels: reports })
    }

    fn report(&self, bench: &Bench, roofline: Roofline, cases: Vec<CaseReport>) -> Result<Report> {
        let (info, capabilities) = (bench.gpu.info(), bench.gpu.capabilities());
        let mut report = Report {
            gpu: info.name.clone(),
            driver: format!("{} {}", info.driver, info.driver_info),
            tier: capabilities.tier,
            precision: self.precision,
            batch: self.batch as usize,
            runs: self.runs as usize,
            clock: bench.clock(),
            checked: self.shader.is_some(),
            time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            roofline,
            cases,
            comparison: None,
        };
        report.comparison = self.compare.as_deref().map(|path| Comparison::of(&report, path, self.threshold)).transpose()?;
        if let Some(other) = report.comparison.as_ref().and_then(|c| c.other_gpu.as_ref()) {
            eprintln!("warning: the earlier times are those of {other}");
        }
        Ok(report)
    }

    fn write(&self, report: &Report) -> Result<()> {
        if let Some(path) = &self.csv {
            write_whole(path, |file| report.write_csv(file))?;
        }
        if let Some(path) = &self.plot {
            image::write(path, &draw::roofline::draw(&report.chart()))?;
        }
        if self.json { print_json(report) } else { print(report) }
    }
}

/// Checks a kernel of ours and times it if it is right.
fn time(
    bench: &mut Bench,
    roofline: &Roofline,
    subject: &Subject,
    inputs: &[Host],
    (variant, kernel): (usize, &Dispatch),
    [bytes, operations]: [u64; 2],
) -> Result<KernelReport> {
    let compile_ms = bench.compile_ms(kernel)?;
    if let Some(wrong) = bench.check(subject.op.name(), kernel)? {
        let (kernel, tier) = (label(kernel), kernel.tier);
        return Ok(KernelReport {
            kernel,
            tier,
            wrong: Some(wrong),
            compile_ms,
            time_us: None,
            gb_s: 0.0,
            tflop_s: 0.0,
            roofline_percent: 0.0,
        });
    }
    let time = bench.time(&subject.op, inputs, variant)?;
    let attainable = roofline.attainable_us(kernel, bytes, operations);
    Ok(KernelReport::timed(label(kernel), kernel.tier, compile_ms, time, [bytes, operations], attainable))
}
