//! `qdetr bench train`: the step of a training run, on random pictures and objects.

use super::Times;
use super::profile::{self, Profile};
use crate::cli::DeviceArgs;
use crate::cli::output::{bytes, print, print_json, progress};
use crate::cli::train::{height_width, ready_or_file, untrained};
use clap::Args;
use qdetr::data::TrainBatch;
use qdetr::data::preprocess::{Batch, Size};
use qdetr::gpu::Tier;
use qdetr::graph::check::noise;
use qdetr::models::config::Alignment;
use qdetr::models::{BatchSize, ModelConfig, detector};
use qdetr::nn::{Precision, initialize};
use qdetr::quant::{Bits, Quantization};
use qdetr::train::matcher::Targets;
use qdetr::train::optimizer::Update;
use qdetr::train::{HeightWidth, LossScale, TrainConfig};
use qdetr::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;
use std::time::Instant;

/// Steps before those that count.
const WARM_UP: usize = 3;

/// Arguments of `qdetr bench train`.
#[derive(Args)]
pub(crate) struct BenchTrain {
    /// A configuration as that of `qdetr train`, in JSON or ready-made
    #[arg(long, value_name = "FILE|NAME", default_value = "bccd-detr")]
    config: String,
    /// In place of the configuration's model: a published architecture, such as detr-resnet50
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Height and width of the pictures
    #[arg(long, value_name = "HxW", value_parser = height_width)]
    size: Option<HeightWidth>,
    /// Pictures in a batch
    #[arg(long)]
    batch: Option<usize>,
    /// Low bits: weights-activations-attention, such as 4-4-8
    #[arg(long)]
    bits: Option<Bits>,
    /// With a teacher whose queries are imitated, a published architecture such as detr-resnet101; queries are aligned then, as in Q-DETR
    #[arg(long, value_name = "NAME")]
    teacher: Option<String>,
    /// What the network computes in
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// Objects on each picture
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1000))]
    objects: u32,
    /// How many steps to time
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// Also time every kernel launch, by the GPU's timestamps
    #[arg(long)]
    profile: bool,
    /// How many of the slowest launches to show with --profile
    #[arg(long, default_value_t = 15)]
    top: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    precision: Precision,
    images: usize,
    /// Batches in a step.
    accumulate: usize,
    height: usize,
    width: usize,
    gpu: String,
    driver: String,
    tier: Tier,
    dispatches: usize,
    gflop: f64,
    memory: BTreeMap<&'static str, usize>,
    peak_bytes: usize,
    /// A whole step.
    step_ms: Times,
    /// From writing the batch to having its predictions.
    forward_ms: Times,
    /// Matching and making targets, on the CPU.
    matching_ms: Times,
    /// Losses, gradients and update, until the losses are read.
    backward_ms: Times,
    /// Of all these, encoding and submitting.
    host_ms: Times,
    loss: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Profile>,
}

impl BenchTrain {
    pub(crate) fn run(&self, device: &DeviceArgs) -> Result<ExitCode> {
        let config = self.config()?;
        let gpu = device.open_for(config.precision, config.model.quantization.is_some())?;
        let (height, width) = config.sizes[0];
        let size = BatchSize { images: config.batch, height, width };
        let start = initialize(&detector::training_specs(&config.model, config.query_groups)?, config.seed);
        let mut trainer = config.start(&gpu, start, self.teacher.as_deref().map(untrained).transpose()?)?;
        trainer.prepare(size)?;
        let batch = random_batch(size, self.objects as usize, config.model.classes)?;
        let (mut times, mut loss_scale, mut loss) = (vec![Vec::new(); 5], LossScale::new(config.precision), 0.0);
        let bar = progress(self.runs as usize);
        for i in 0..WARM_UP + self.runs as usize {
            let started = Instant::now();
            let update = Update { step: i as u64, factor: 1.0, loss_scale: loss_scale.value() };
            // As in a run: the next batch is uploaded while the device works.
            let pending = trainer.submit(&vec![(&batch, i as u32); config.accumulate], update)?;
            trainer.upload(&batch, i as u32 + 1);
            let report = trainer.finish(pending)?;
            let step = started.elapsed().as_secs_f64();
            loss_scale = report.grad_norm.map_or_else(|| loss_scale.skipped(), |_| Ok(loss_scale.done()))?;
            loss = report.losses.total;
            if i >= WARM_UP {
                let parts = [step, report.forward, report.matching, report.backward, report.host];
                times.iter_mut().zip(parts).for_each(|(all, seconds)| all.push(seconds * 1e3));
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        let plan = trainer.plan(size).expect("it was prepared");
        let [step_ms, forward_ms, matching_ms, backward_ms, host_ms] = times.try_into().map(|t: [_; 5]| t.map(Times::of)).expect("five");
        let report = Report {
            precision: config.precision,
            images: size.images,
            accumulate: config.accumulate,
            height,
            width,
            gpu: gpu.info().name.clone(),
            driver: format!("{} {}", gpu.info().driver, gpu.info().driver_info),
            tier: gpu.capabilities().tier,
            dispatches: plan.dispatches(),
            gflop: super::operations(plan) as f64 / 1e9,
            peak_bytes: trainer.memory().values().sum(),
            memory: trainer.memory(),
            step_ms,
            forward_ms,
            matching_ms,
            backward_ms,
            host_ms,
            loss,
            profile: self.profile.then(|| profile::of(plan, self.top)).transpose()?,
        };
        if self.json {
            print_json(&report)?
        } else {
            print(&report)?
        }
        Ok(ExitCode::SUCCESS)
    }

    fn config(&self) -> Result<TrainConfig> {
        let mut config = ready_or_file(&self.config)?;
        if let Some(preset) = &self.preset {
            let backbone = preset.strip_prefix("detr-").unwrap_or(preset);
            config.model = ModelConfig::detr(backbone).map_err(|e| Error::Usage(e.to_string()))?;
            config.sizes = vec![(800, 1066)];
        }
        config.sizes = self.size.map_or(config.sizes, |size| vec![size]);
        config.batch = self.batch.unwrap_or(config.batch);
        config.model.quantization = self.bits.map(Quantization::new).or(config.model.quantization);
        config.precision = self.precision.unwrap_or(config.precision);
        if self.teacher.is_some() {
            config.model.alignment = Alignment::CoAttention;
        }
        config.validate()?;
        Ok(config)
    }
}

/// Pictures of noise, without padding, with objects of all classes.
fn random_batch(BatchSize { images, height, width }: BatchSize, objects: usize, classes: usize) -> Result<TrainBatch> {
    let batch = Batch::noise(images, Size { width, height })?;
    let places = noise([images, objects, 4], 2);
    let places: Vec<[f32; 4]> = bytemuck::cast_slice(&places.to_f32()).to_vec();
    let boxed = |p: &[f32; 4]| [0.5 + p[0] * 0.3, 0.5 + p[1] * 0.3, 0.15 + p[2] * 0.1, 0.15 + p[3] * 0.1];
    let targets =
        |boxes: &[[f32; 4]]| Targets { labels: (0..objects).map(|i| i % classes).collect(), boxes: boxes.iter().map(boxed).collect() };
    let targets = if objects == 0 { vec![Targets::default(); images] } else { places.chunks(objects).map(targets).collect() };
    Ok(TrainBatch { epoch: 0, step: 0, batch, targets, skipped: Vec::new() })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, height, width, .. } = self;
        writeln!(f, "training, {}, {images} × {height} × {width}", self.precision.dtype())?;
        writeln!(f, "gpu      {} ({}), {} tier", self.gpu, self.driver.trim(), self.tier)?;
        writeln!(f, "work     {:.1} GFLOP in {} dispatches and the optimizer's", self.gflop, self.dispatches)?;
        let parts: Vec<String> = self.memory.iter().map(|(name, &n)| format!("{name} {}", bytes(n as u64))).collect();
        writeln!(f, "memory   {} = {}", bytes(self.peak_bytes as u64), parts.join(" + "))?;
        let rate = 1e3 / self.step_ms.median;
        writeln!(f, "step     {}, {rate:.1} steps/s, {:.1} images/s", self.step_ms, rate * (self.images * self.accumulate) as f64)?;
        writeln!(f, "forward  {}", self.forward_ms)?;
        writeln!(f, "matching {}", self.matching_ms)?;
        writeln!(f, "backward {}", self.backward_ms)?;
        writeln!(f, "host     {} to encode and submit; the rest is waiting for the device", self.host_ms)?;
        self.profile.iter().try_for_each(|profile| write!(f, "{profile}"))
    }
}
