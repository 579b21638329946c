//! `qdetr bench model`: the forward of a detector.

use super::Times;
use super::profile::{self, Profile};
use crate::cli::DeviceArgs;
use crate::cli::model::{ModelArgs, SizeArgs};
use crate::cli::output::{bytes, print, print_json, progress};
use clap::Args;
use qdetr::data::preprocess::{Batch, Size};
use qdetr::gpu::Tier;
use qdetr::graph::{MemoryReport, Plan};
use qdetr::models::Results;
use qdetr::nn::Precision;
use qdetr::{Error, Result};
use serde::Serialize;
use std::fmt;
use std::process::ExitCode;
use std::time::Instant;

/// Runs before those that count.
const WARM_UP: usize = 3;

/// Arguments of `qdetr bench model`.
#[derive(Args)]
pub(crate) struct BenchModel {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    size: SizeArgs,
    /// How many runs to time
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// Also time every step, by the GPU's timestamps
    #[arg(long)]
    profile: bool,
    /// How many of the slowest steps to show with --profile
    #[arg(long, default_value_t = 15)]
    top: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    /// What of the model is random, if anything.
    random: Option<&'static str>,
    precision: Precision,
    images: usize,
    height: usize,
    width: usize,
    gpu: String,
    driver: String,
    tier: Tier,
    dispatches: usize,
    gflop: f64,
    memory: MemoryReport,
    peak_bytes: usize,
    /// What wgpu's allocator gave to buffers, staging included, and what it took from the driver for that, where it tells.
    allocated_bytes: Option<[u64; 2]>,
    prepare: Prepare,
    /// Encode, submit and wait.
    run_ms: Times,
    /// Encode and submit alone.
    host_ms: Times,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Profile>,
}

/// Seconds before the first answer.
#[derive(Serialize)]
struct Prepare {
    open_s: f64,
    weights_s: f64,
    compile_s: f64,
    first_run_s: f64,
}

impl BenchModel {
    pub(crate) fn run(&self, device: &DeviceArgs) -> Result<ExitCode> {
        let mut clock = Clock(Instant::now());
        let model = self.model.load_or("detr-resnet50")?;
        let (name, random, precision) = (model.name.clone(), model.random, model.precision);
        let read_s = clock.lap();
        let gpu = device.open_for(precision, model.config.quantization.is_some())?;
        let open_s = clock.lap();
        let mut detector = model.detector(&gpu, Results::Answers)?;
        let weights_s = read_s + clock.lap();
        let size = self.size.size();
        let plan = detector.plan(size)?;
        let compile_s = clock.lap();
        let batch = Batch::noise(size.images, Size { width: size.width, height: size.height })?;
        batch.pictures.inputs().into_iter().for_each(|(name, host)| plan.write(name, host));
        clock.lap();
        plan.run()?;
        check(plan)?;
        let first_run_s = clock.lap();
        let (run_ms, host_ms) = self.time(plan)?;
        let gflop = super::operations(plan) as f64 / 1e9;
        let report = Report {
            model: name,
            random,
            precision,
            images: size.images,
            height: size.height,
            width: size.width,
            gpu: gpu.info().name.clone(),
            driver: format!("{} {}", gpu.info().driver, gpu.info().driver_info),
            tier: gpu.capabilities().tier,
            dispatches: plan.dispatches(),
            gflop,
            memory: plan.memory(),
            peak_bytes: plan.memory().total(),
            allocated_bytes: gpu.device().generate_allocator_report().map(|r| [r.total_allocated_bytes, r.total_reserved_bytes]),
            prepare: Prepare { open_s, weights_s, compile_s, first_run_s },
            run_ms,
            host_ms,
            profile: self.profile.then(|| profile::of(plan, self.top)).transpose()?,
        };
        if self.json {
            print_json(&report)?
        } else {
            print(&report)?
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Times of whole runs, and of their share on the host.
    fn time(&self, plan: &Plan) -> Result<(Times, Times)> {
        let bar = progress(self.runs as usize);
        let (mut runs, mut hosts) = (Vec::new(), Vec::new());
        for i in 0..WARM_UP + self.runs as usize {
            let started = Instant::now();
            plan.run()?;
            let submitted = started.elapsed();
            plan.gpu().wait()?;
            if i >= WARM_UP {
                runs.push(started.elapsed().as_secs_f64() * 1e3);
                hosts.push(submitted.as_secs_f64() * 1e3);
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        Ok((Times::of(runs), Times::of(hosts)))
    }
}

/// Seconds since the last lap.
struct Clock(Instant);

impl Clock {
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let seconds = (now - self.0).as_secs_f64();
        self.0 = now;
        seconds
    }
}

/// A fast wrong answer is worth nothing.
fn check(plan: &Plan) -> Result<()> {
    for (name, host) in plan.read()? {
        if host.to_f32().iter().any(|x| !x.is_finite()) {
            return Err(Error::NotFinite(format!("`{name}` holds numbers that are not finite: run `qdetr check`")));
        }
    }
    Ok(())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, height, width, memory: m, prepare: p, .. } = self;
        let random = self.random.map_or(String::new(), |what| format!(" ({what})"));
        writeln!(f, "{}{random}, {}, {images} × {height} × {width}", self.model, self.precision.dtype())?;
        writeln!(f, "gpu      {} ({}), {} tier", self.gpu, self.driver.trim(), self.tier)?;
        writeln!(f, "work     {:.1} GFLOP in {} dispatches", self.gflop, self.dispatches)?;
        let mb = |n: usize| bytes(n as u64);
        writeln!(f, "memory   {} = weights {} + scratch {} + io {}", mb(m.total()), mb(m.params), mb(m.scratch), mb(m.io))?;
        writeln!(f, "         {:.2} times weights + the largest live set ({})", m.total() as f64 / (m.params + m.live) as f64, mb(m.live))?;
        if let Some([allocated, reserved]) = self.allocated_bytes {
            writeln!(f, "         {} in wgpu's buffers, {} taken from the driver", bytes(allocated), bytes(reserved))?;
        }
        let Prepare { open_s, weights_s, compile_s, first_run_s } = p;
        writeln!(f, "prepare  open {open_s:.2} s, weights {weights_s:.2} s, compile {compile_s:.2} s, first run {first_run_s:.3} s")?;
        writeln!(f, "run      {}, {:.1} GFLOP/s", self.run_ms, self.gflop / self.run_ms.median * 1e3)?;
        writeln!(f, "host     {} to encode and submit", self.host_ms)?;
        self.profile.iter().try_for_each(|profile| write!(f, "{profile}"))
    }
}
