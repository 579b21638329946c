//! What `qdetr train` and `qdetr ablation` share: the data sets, step sizes at the start, the progress.

use super::start::Start;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use qdetr::data::{Categories, Dataset, Options, Strictness};
use qdetr::gpu::Gpu;
use qdetr::graph::Values;
use qdetr::models::CalibrationMethod;
use qdetr::train::{CALIBRATION_PICTURES, Event, TrainConfig, calibrate};
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

/// Makes the model one of the data set's classes and of the run's size of pictures.
pub(crate) fn fit_to_data(config: &mut TrainConfig, train: &Dataset) {
    config.model.classes = train.categories.len();
    config.model.class_names = train.categories.names().to_vec();
    config.model.resize = Some(config.resize());
}

/// The parameters at the start, with step sizes from the first pictures where they have none and want some; the signs of these go into
/// the configuration.
pub(crate) fn with_step_sizes(
    gpu: &Gpu,
    config: &mut TrainConfig,
    start: Start,
    set: &Dataset,
    (method, strictness): (CalibrationMethod, Strictness),
    show: &mut Show,
) -> Result<Values> {
    if !start.is_without_steps {
        return Ok(start.parameters);
    }
    if let Some(quantization) = &config.model.quantization {
        let pictures = set.images.len().min(CALIBRATION_PICTURES);
        eprintln!("note: step sizes of {quantization} start from {pictures} pictures");
    }
    let tell = &mut |event: Event<'_>| show.event(&event);
    let found = calibrate(gpu, config, set, (start.parameters, method), strictness, tell)?;
    config.model = found.config;
    Ok(found.params)
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
