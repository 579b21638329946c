//! `qdetr train`: a detector from annotated pictures.

use super::DeviceArgs;
use super::bits::{BitsArgs, method};
use super::model::read;
use super::output::{bytes, print, print_json};
use super::start;
use super::training::{DataArgs, ScheduleArgs, Show, fit_to_data, from_pictures, weigh_distillation};
use clap::Args;
use qdetr::data::Dataset;
use qdetr::gpu::Gpu;
use qdetr::graph::Values;
use qdetr::models::config::Alignment;
use qdetr::models::{BatchSize, CalibrationMethod, ModelConfig, detector};
use qdetr::nn::initialize;
use qdetr::tensor::Host;
use qdetr::train::{HeightWidth, Job, Outcome, Teacher, TrainConfig, prepare, run};
use qdetr::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The configurations that come with the program.
const READY: [(&str, &str); 8] = [
    ("bccd-detr", include_str!("../../assets/configs/bccd-detr.json")),
    ("bccd-detr-stride16", include_str!("../../assets/configs/bccd-detr-stride16.json")),
    ("bccd-smca", include_str!("../../assets/configs/bccd-smca.json")),
    ("bccd-smca-groups", include_str!("../../assets/configs/bccd-smca-groups.json")),
    ("coco-mini", include_str!("../../assets/configs/coco-mini.json")),
    ("bccd-q-detr", include_str!("../../assets/configs/bccd-q-detr.json")),
    ("q-detr-r50-stage1", include_str!("../../assets/configs/q-detr-r50-stage1.json")),
    ("q-detr-r50", include_str!("../../assets/configs/q-detr-r50.json")),
];

/// Arguments of `qdetr train`.
#[derive(Args)]
pub(crate) struct Train {
    #[command(flatten)]
    data: DataArgs,
    /// A configuration in JSON, or the name of a ready-made one: bccd-detr, bccd-detr-stride16, bccd-smca, bccd-smca-groups,
    /// coco-mini, and Q-DETR's, which want a --teacher: bccd-q-detr; for COCO q-detr-r50-stage1 (without teacher), then q-detr-r50
    #[arg(long, value_name = "FILE|NAME")]
    config: String,
    /// Weights to start from: a detector, or a backbone [default: the built-in ImageNet MobileNetV2 where it is the backbone]
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    #[command(flatten)]
    bits: BitsArgs,
    /// How step sizes start: lsq, min-max, mse, percentile or percentile:P; from the first pictures, unless --from has some
    #[arg(long, value_name = "METHOD", default_value = "mse", value_parser = method)]
    calibration: CalibrationMethod,
    /// A detector of floats whose queries the model imitates, as Q-DETR does (foreground-aware query matching); with --dry-run also the
    /// name of an architecture, such as detr-resnet101
    #[arg(long, value_name = "FILE")]
    teacher: Option<PathBuf>,
    /// Weight of the distance to the teacher [default: 2.5]
    #[arg(long, requires = "teacher")]
    lambda: Option<f32>,
    /// Keep a query when it covers an object more than this share of what the best query does [default: 0.6]
    #[arg(long, requires = "teacher")]
    tau: Option<f32>,
    /// Where the decoder's queries are aligned, as Q-DETR does
    #[arg(long, value_enum)]
    alignment: Option<Alignment>,
    /// Do not train these parameters either: whole parts of their names, such as backbone; repeat for several
    #[arg(long, value_name = "PART")]
    freeze: Vec<String>,
    /// Learn the first N pictures by heart: no variation, validation on the same
    #[arg(long, value_name = "N")]
    overfit: Option<usize>,
    /// Of everything random
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    schedule: ScheduleArgs,
    /// Batches whose mean gradient makes one step: a large batch in the memory of a small one
    #[arg(long, value_name = "BATCHES")]
    accumulate: Option<usize>,
    /// Size that pictures are made to fit
    #[arg(long, value_name = "HxW", value_parser = height_width)]
    size: Option<HeightWidth>,
    /// Groups of auxiliary queries, each as many as the model has: they speed learning up and are gone in use
    #[arg(long, value_name = "GROUPS")]
    query_groups: Option<usize>,
    /// Scale gradients down to this global norm
    #[arg(long, value_name = "NORM")]
    clip: Option<f64>,
    /// Keep an average of the parameters with this decay, such as 0.999, and evaluate and save that
    #[arg(long, value_name = "DECAY")]
    average: Option<f64>,
    /// Evaluate, save and end after so many seconds
    #[arg(long, value_name = "SECONDS")]
    max_seconds: Option<f64>,
    /// Go on from the state in the folder of --out, to the same bits as without a stop
    #[arg(long)]
    resume: bool,
    /// Print what would be trained, the kernel launches of a step and the memory that it takes; train nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    /// The folder for log, curves and checkpoints
    #[arg(long, value_name = "FOLDER", default_value = "runs/train")]
    out: PathBuf,
}

/// A ready-made configuration by its name, or one in a file.
pub(crate) fn ready_or_file(name: &str) -> Result<TrainConfig> {
    match READY.iter().find(|(ready, _)| *ready == name) {
        Some((name, json)) => TrainConfig::parse(json).map_err(|what| Error::Config(format!("{name}: {what}"))),
        None => TrainConfig::read(Path::new(name)),
    }
}

pub(crate) fn height_width(text: &str) -> Result<HeightWidth, String> {
    let sides = text.split_once('x').and_then(|(h, w)| Some((h.parse().ok()?, w.parse().ok()?)));
    sides.filter(|&(h, w)| h > 0 && w > 0).ok_or_else(|| "want height and width in pixels, such as 480x640".into())
}

impl Train {
    pub(crate) fn run(&self, device: &DeviceArgs) -> Result<ExitCode> {
        let mut config = self.config()?;
        if config.distillation.is_some() && self.teacher.is_none() {
            return Err(Error::Usage(format!("{} distills from a teacher: name one, with --teacher", self.config)));
        }
        let (train, validation) = self.sets(&config)?;
        fit_to_data(&mut config, &train);
        config.validate()?;
        let start = if self.resume { start::resumed(&mut config, &self.out)? } else { start::anew(&mut config, self.from.as_deref())? };
        let teacher = self.teacher.as_deref().map(|path| self.teacher(path)).transpose()?;
        let gpu = device.open_for(config.precision, config.model.quantization.is_some())?;
        if self.dry_run {
            return self.report(&DryRun::of(&gpu, &config, start.parameters, teacher)?);
        }
        let mut show = Show::new();
        let calibration = (self.calibration, self.data.strictness());
        let start = from_pictures(&gpu, &mut config, start, &train, calibration, &mut show)?;
        let job = Job {
            train,
            validation,
            start,
            teacher,
            out: self.out.clone(),
            max_seconds: self.max_seconds,
            resume: self.resume,
            plain: self.overfit.is_some(),
            threads: self.data.threads(),
            strictness: self.data.strictness(),
            config,
        };
        let outcome = run(&gpu, &job, &mut |event| show.event(&event))?;
        show.end();
        self.report(&Ended { outcome, out: self.out.clone() })
    }

    fn teacher(&self, path: &Path) -> Result<Teacher> {
        let name = path.to_string_lossy();
        if self.dry_run && !path.exists() && name.starts_with("detr-") {
            return untrained(&name);
        }
        let (config, params) = read(path)?;
        Ok(Teacher { config, params })
    }

    fn report(&self, report: &(impl Serialize + fmt::Display)) -> Result<ExitCode> {
        if self.json {
            print_json(report)?
        } else {
            print(report)?
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The configuration, with what the command line says otherwise.
    fn config(&self) -> Result<TrainConfig> {
        let mut config = ready_or_file(&self.config)?;
        config.seed = self.seed.unwrap_or(config.seed);
        self.schedule.over(&mut config);
        config.accumulate = self.accumulate.unwrap_or(config.accumulate);
        config.query_groups = self.query_groups.unwrap_or(config.query_groups);
        config.clip = self.clip.unwrap_or(config.clip);
        config.average = self.average.or(config.average);
        if !self.freeze.is_empty() {
            let mut frozen = config.frozen();
            frozen.extend(self.freeze.iter().cloned());
            config.freeze = Some(frozen);
        }
        if let Some(size) = self.size {
            config.sizes = vec![size];
        }
        config.model.quantization = self.bits.over(config.model.quantization)?;
        config.model.alignment = self.alignment.unwrap_or(config.model.alignment);
        weigh_distillation(&mut config, self.lambda, self.tau);
        Ok(config)
    }

    /// Pictures to learn from, and to be judged on.
    fn sets(&self, config: &TrainConfig) -> Result<(Dataset, Option<Dataset>)> {
        let mut train = self.data.training()?;
        if let Some(count) = self.overfit {
            train.images.truncate(count.max(1));
            return Ok((train.clone(), Some(train)));
        }
        let validation = self.data.validation(&train)?;
        if validation.is_none() && config.evaluate_every > 0 {
            eprintln!("note: there is nothing to be judged on; name it with --val");
        }
        Ok((train, validation))
    }
}

/// A published architecture with random weights, which takes the memory and the time of a teacher.
pub(crate) fn untrained(name: &str) -> Result<Teacher> {
    let config = ModelConfig::detr(name.strip_prefix("detr-").unwrap_or(name)).map_err(|e| Error::Usage(e.to_string()))?;
    let mut params = initialize(&detector::specs(&config)?, 0);
    // The last norm of each residual branch, scaled down: dozens of random branches add up to more than f16 holds.
    let is_last = |name: &str| name.starts_with("backbone.") && (name.ends_with(".bn3.weight") || name.ends_with(".bn2.weight"));
    for (_, weight) in params.iter_mut().filter(|(name, _)| is_last(name)) {
        *weight = Host::f32(weight.shape().dims(), vec![0.1; weight.shape().len()]);
    }
    Ok(Teacher { config, params })
}

/// How a run ended, and where its files are.
#[derive(Serialize)]
struct Ended {
    #[serde(flatten)]
    outcome: Outcome,
    out: PathBuf,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { steps, out_of_time, best, last } = &self.outcome;
        let end = if *out_of_time { "time is over" } else { "done" };
        let last = last.as_ref().map(|last| format!(", AP {:.3}", last.ap)).unwrap_or_default();
        let best = best.as_ref().map(|best| format!(", best AP {:.3} behind epoch {}", best.ap, best.epoch + 1)).unwrap_or_default();
        writeln!(f, "{end} at step {steps}{last}{best}; see {}", self.out.display())
    }
}

/// What would be trained, and what it takes.
#[derive(Serialize)]
struct DryRun {
    /// Low bits, and for which layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    bits: Option<String>,
    parameters: usize,
    trained: usize,
    batch: usize,
    accumulate: usize,
    sizes: Vec<HeightWidth>,
    /// Kernel launches of a step, for each size.
    launches: Vec<Option<usize>>,
    /// Bytes while it trains, by kind.
    memory: BTreeMap<&'static str, usize>,
    /// Bytes more while it evaluates.
    evaluation: usize,
}

impl DryRun {
    fn of(gpu: &Gpu, config: &TrainConfig, start: Values, teacher: Option<Teacher>) -> Result<Self> {
        let parameters = start.values().map(|host| host.shape().len()).sum();
        let mut trainer = config.start(gpu, start, teacher)?;
        let evaluation = prepare(&mut trainer, config)?;
        let launches = |&(height, width): &HeightWidth| trainer.dispatches(BatchSize { images: config.batch, height, width });
        Ok(Self {
            bits: config.model.quantization.as_ref().map(ToString::to_string),
            parameters,
            trained: trainer.layout().places().map(|(_, _, ty)| ty.shape.len()).sum(),
            batch: config.batch,
            accumulate: config.accumulate,
            sizes: config.sizes.clone(),
            launches: config.sizes.iter().map(launches).collect(),
            memory: trainer.memory(),
            evaluation,
        })
    }
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(bits) = &self.bits {
            writeln!(f, "bits       {bits}")?;
        }
        writeln!(f, "parameters {}, trained {}", self.parameters, self.trained)?;
        for ((height, width), launches) in self.sizes.iter().zip(&self.launches) {
            let parts = if self.accumulate > 1 { format!("{} times ", self.accumulate) } else { String::new() };
            let launches = launches.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
            writeln!(f, "launches   {launches} a step of {parts}{} × {height} × {width}", self.batch)?;
        }
        let parts: Vec<String> = self.memory.iter().map(|(name, &n)| format!("{name} {}", bytes(n as u64))).collect();
        let total: usize = self.memory.values().sum();
        writeln!(f, "memory     {} = {}", bytes(total as u64), parts.join(" + "))?;
        writeln!(f, "           and {} while it evaluates", bytes(self.evaluation as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_made_configurations_are_valid() {
        for (name, json) in READY {
            let config = TrainConfig::parse(json).unwrap_or_else(|e| panic!("{name}: {e}"));
            config.validate().unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }

    #[test]
    fn sizes_are_height_and_width() {
        assert_eq!(height_width("480x640"), Ok((480, 640)));
        for wrong in ["480", "0x640", "x", "480x-1", "ax9"] {
            assert!(height_width(wrong).is_err(), "{wrong}");
        }
    }
}
