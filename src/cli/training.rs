//! What `qdetr train` and `qdetr ablation` share: the data sets, what starts from pictures, the progress.

use super::start::Start;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use qdetr::data::{Categories, Dataset, Options, Strictness};
use qdetr::gpu::Gpu;
use qdetr::graph::Values;
use qdetr::models::CalibrationMethod;
use qdetr::nn::Precision;
use qdetr::train::{CALIBRATION_PICTURES, Event, TrainConfig, align, calibrate};
use qdetr::{Error, Result};
use std::path::{Path, PathBuf};

/// Mistakes in annotations that are named, and pictures that cannot be read.
const SHOWN: usize = 10;

/// Annotated pictures, and how they are read.
#[derive(Args)]
pub(crate) struct DataArgs {
    /// Annotated pictures: a COCO annotation file or folder, or a PASCAL VOC folder; of a folder its split `train`
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Pictures to be judged on, likewise [default: the split `val` beside, if there is one]
    #[arg(long, value_name = "PATH")]
    val: Option<PathBuf>,
    /// Threads that make batches [default: all but one]
    #[arg(long)]
    threads: Option<usize>,
    /// Fail at mistakes in the annotations and at pictures that cannot be read, instead of leaving them out
    #[arg(long)]
    strict: bool,
}

impl DataArgs {
    pub(crate) fn strictness(&self) -> Strictness {
        if self.strict { Strictness::Fatal } else { Strictness::Skip }
    }

    /// As asked for, or all threads but the one that drives the GPU.
    pub(crate) fn threads(&self) -> usize {
        let most = || std::thread::available_parallelism().map_or(1, |n| n.get().saturating_sub(1)).clamp(1, 32);
        self.threads.unwrap_or_else(most)
    }

    /// Pictures to learn from.
    pub(crate) fn training(&self) -> Result<Dataset> {
        self.open(&self.data, "train", None)
    }

    /// Pictures to be judged on, with the labels of those to learn from.
    pub(crate) fn validation(&self, train: &Dataset) -> Result<Option<Dataset>> {
        let known = Some(train.categories.clone());
        match &self.val {
            Some(path) => self.open(path, "val", known).map(Some),
            None if self.data.is_dir() => match self.open(&self.data, "val", known) {
                Ok(set) => Ok(Some(set)),
                Err(error) => {
                    eprintln!("warning: no validation: {error}");
                    Ok(None)
                }
            },
            None => Ok(None),
        }
    }

    fn open(&self, path: &Path, split: &str, categories: Option<Categories>) -> Result<Dataset, Error> {
        let split = path.is_dir().then_some(split);
        let set = Dataset::open_with(path, split, &Options { strictness: self.strictness(), categories })?;
        set.report.issues.iter().take(SHOWN).for_each(|issue| eprintln!("warning: {issue}"));
        Ok(set)
    }
}

/// How long and how fast a run learns, where the command line says otherwise than the configuration.
#[derive(Args)]
pub(crate) struct ScheduleArgs {
    /// Epochs
    #[arg(long)]
    epochs: Option<u64>,
    /// Pictures in a batch
    #[arg(long)]
    batch: Option<usize>,
    /// Learning rate
    #[arg(long)]
    lr: Option<f64>,
    /// Learning rate of the backbone
    #[arg(long)]
    lr_backbone: Option<f64>,
    /// What the network computes in; f16 is mixed precision: parameters and losses stay f32
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// Epochs between evaluations; 0: only at the end
    #[arg(long, value_name = "EPOCHS")]
    evaluate_every: Option<u64>,
}

impl ScheduleArgs {
    pub(crate) fn over(&self, config: &mut TrainConfig) {
        config.epochs = self.epochs.unwrap_or(config.epochs);
        config.batch = self.batch.unwrap_or(config.batch);
        config.lr = self.lr.unwrap_or(config.lr);
        config.lr_backbone = self.lr_backbone.unwrap_or(config.lr_backbone);
        config.precision = self.precision.unwrap_or(config.precision);
        config.evaluate_every = self.evaluate_every.unwrap_or(config.evaluate_every);
    }
}

/// Makes the model one of the data set's classes and of the run's size of pictures.
pub(crate) fn fit_to_data(config: &mut TrainConfig, train: &Dataset) {
    config.model.classes = train.categories.len();
    config.model.class_names = train.categories.names().to_vec();
    config.model.resize = Some(config.resize());
}

/// Gives the distillation the weight λ and the threshold τ, where they are said.
pub(crate) fn weigh_distillation(config: &mut TrainConfig, lambda: Option<f32>, tau: Option<f32>) {
    if lambda.is_some() || tau.is_some() {
        let mut distillation = config.distilling();
        distillation.weight = lambda.unwrap_or(distillation.weight);
        distillation.matching.tau = tau.unwrap_or(distillation.matching.tau);
        config.distillation = Some(distillation);
    }
}

/// The parameters at the start with what starts from pictures where they lack it: alignment, and step sizes, whose signs go into the
/// configuration.
pub(crate) fn from_pictures(
    gpu: &Gpu,
    config: &mut TrainConfig,
    start: Start,
    set: &Dataset,
    (method, strictness): (CalibrationMethod, Strictness),
    show: &mut Show,
) -> Result<Values> {
    let (kept, stage) = (start.kept_steps(), start.stage);
    let mut params = start.parameters;
    let pictures = set.images.len().min(CALIBRATION_PICTURES);
    let tell = &mut |event: Event<'_>| show.event(&event);
    if start.is_without_alignment {
        eprintln!("note: the alignment of queries starts from {pictures} pictures");
        let found = align(gpu, config, set, params.clone(), strictness, tell)?;
        params.extend(found);
    }
    if let Some(quantization) = config.model.quantization.as_ref().filter(|_| start.is_without_steps) {
        let but = if stage.is_some() { ", those of the backbone where its own stage left them" } else { "" };
        eprintln!("note: step sizes of {quantization} start from {pictures} pictures{but}");
        let found = calibrate(gpu, config, set, (params, method), strictness, tell)?;
        (config.model, params) = (found.config, found.params);
        if let (Some(stage), Some(ours)) = (stage, &mut config.model.quantization) {
            ours.keep_backbone(&stage);
        }
        params.extend(kept);
    }
    Ok(params)
}

/// The progress on stderr.
pub(crate) struct Show {
    bar: ProgressBar,
    skipped: usize,
}

impl Show {
    pub(crate) fn new() -> Self {
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {per_sec} {eta} left  {msg}").expect("a valid template");
        Self { bar: ProgressBar::new(0).with_style(style), skipped: 0 }
    }

    /// Shows what a run tells.
    pub(crate) fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Step(line) => {
                self.bar.set_length(line.steps);
                self.bar.set_position(line.step + 1);
                self.bar.set_message(format!("epoch {} loss {:.3}", line.epoch + 1, line.report.losses.total));
            }
            Event::Skipped(what) if self.skipped < SHOWN => {
                self.skipped += 1;
                self.bar.suspend(|| eprintln!("warning: {what}"));
            }
            Event::Skipped(_) => {}
            Event::Warning(what) => self.bar.suspend(|| eprintln!("warning: {what}")),
            Event::Evaluated { epoch, summary } => {
                let text = format!("epoch {}: AP {:.3}, AP50 {:.3}", epoch + 1, summary.ap, summary.ap50);
                self.bar.suspend(|| eprintln!("{text}"));
            }
        }
    }

    /// Removes the bar.
    pub(crate) fn end(self) {
        self.bar.finish_and_clear();
    }
}
