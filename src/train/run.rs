//! The training run: steps, log, evaluation and checkpoints, until the epochs or the time are over.

use super::evaluate::evaluate;
use super::optimizer::Update;
use super::trainer::{StepReport, Trainer};
use super::{TrainConfig, trainer_options};
use crate::data::augment::generator;
use crate::data::{Dataset, Loader, LoaderOptions, Strictness};
use crate::eval::Summary;
use crate::gpu::Gpu;
use crate::graph::Values;
use crate::models::BatchSize;
use crate::{Error, Result, weights};
use rand::RngExt;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// What a run trains, on what, and where its files go.
#[derive(Clone, Debug)]
pub struct Job {
    /// The model and the recipe; classes and their names are those of the data set.
    pub config: TrainConfig,
    /// Pictures to learn from.
    pub train: Dataset,
    /// Pictures to be judged on, with the same labels.
    pub validation: Option<Dataset>,
    /// All parameters at the start.
    pub start: Values,
    /// The folder of log and checkpoints; made if it is not there.
    pub out: PathBuf,
    /// Seconds after which the run saves and ends.
    pub max_seconds: Option<f64>,
    /// Without variation: a few pictures shall be learnt by heart.
    pub plain: bool,
    /// Threads that make batches.
    pub threads: usize,
    /// What to do about pictures that cannot be read.
    pub strictness: Strictness,
}

/// One line of the log.
#[derive(Clone, Debug, Serialize)]
pub struct StepLine {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Step since the start of training, from 0.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Learning rate of the transformer.
    pub lr: f32,
    /// Losses, norm and times.
    #[serde(flatten)]
    pub report: StepReport,
    /// Seconds waited for data in this step.
    pub waited: f64,
    /// Seconds since the run began.
    pub seconds: f64,
}

/// What a run tells while it goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step is done.
    Step(&'a StepLine),
    /// A picture could not be read, and why.
    Skipped(&'a str),
    /// The model behind an epoch was evaluated.
    Evaluated {
        /// The epoch, from 0.
        epoch: u64,
        /// COCO's numbers on the validation pictures.
        summary: &'a Summary,
    },
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Steps done, those before a resumption included.
    pub steps: u64,
    /// Whether time ran out before the epochs.
    pub out_of_time: bool,
    /// The best AP on the validation pictures, and the epoch that it was behind.
    pub best: Option<(u64, f64)>,
}

/// Runs a job.
///
/// # Errors
/// [`Error::Config`] for a configuration that no run can have; [`Error::NotFinite`] when losses or gradients are no numbers, the
/// last checkpoint is kept then; failures of files and of the device.
pub fn run(gpu: &Gpu, job: &Job, tell: &mut dyn FnMut(Event<'_>)) -> Result<Outcome> {
    job.config.validate()?;
    fs::create_dir_all(&job.out).map_err(Error::io(&job.out))?;
    let mut state = Running::start(gpu, job)?;
    while state.step < state.steps && !state.is_out_of_time() {
        state.one_step(tell)?;
        if state.step.is_multiple_of(state.steps_an_epoch) {
            state.behind_epoch(tell)?;
        }
    }
    if state.saved != Some(state.step) {
        state.save("last", &BTreeMap::new())?;
    }
    Ok(Outcome { steps: state.step, out_of_time: state.step < state.steps, best: state.best })
}

/// A run on its way.
struct Running<'a> {
    gpu: &'a Gpu,
    job: &'a Job,
    trainer: Trainer,
    loader: Loader,
    log: File,
    log_path: PathBuf,
    begin: Instant,
    step: u64,
    steps: u64,
    steps_an_epoch: u64,
    saved: Option<u64>,
    best: Option<(u64, f64)>,
}

impl<'a> Running<'a> {
    fn start(gpu: &'a Gpu, job: &'a Job) -> Result<Self> {
        let config = &job.config;
        let trains = config.clone();
        let mut trainer =
            Trainer::new(gpu, config.model.clone(), job.start.clone(), trainer_options(config), move |name| trains.trains(name))?;
        prepare(&mut trainer, config)?;
        let loader = loader_options(job);
        let steps_an_epoch = loader.steps(job.train.images.len());
        let loader = Loader::start(Arc::new(job.train.images.clone()), loader, 0)?;
        let log_path = job.out.join("log.jsonl");
        let log = OpenOptions::new().create(true).append(true).open(&log_path).map_err(Error::io(&log_path))?;
        let steps = steps_an_epoch * config.epochs;
        let begin = Instant::now();
        Ok(Self { gpu, job, trainer, loader, log, log_path, begin, step: 0, steps, steps_an_epoch, saved: None, best: None })
    }

    fn is_out_of_time(&self) -> bool {
        self.job.max_seconds.is_some_and(|most| self.begin.elapsed().as_secs_f64() >= most)
    }

    fn one_step(&mut self, tell: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let waited = self.loader.waited();
        let batch = self.loader.next_batch()?;
        batch.skipped.iter().for_each(|what| tell(Event::Skipped(what)));
        let rates = self.job.config.rates(self.step, self.steps);
        let report = self.trainer.step(&batch, Update { rates, seed: seed(self.job.config.seed, self.step) })?;
        let line = StepLine {
            epoch: batch.epoch,
            step: self.step,
            steps: self.steps,
            lr: rates[0],
            report,
            waited: (self.loader.waited() - waited).as_secs_f64(),
            seconds: self.begin.elapsed().as_secs_f64(),
        };
        self.write_log(&line)?;
        self.step += 1;
        tell(Event::Step(&line));
        Ok(())
    }

    fn write_log(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(line).map_err(|e| Error::Config(e.to_string()))?;
        text.push('\n');
        self.log.write_all(text.as_bytes()).map_err(Error::io(&self.log_path))
    }

    /// Saves, and evaluates when it is time.
    fn behind_epoch(&mut self, tell: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let epoch = self.step / self.steps_an_epoch - 1;
        let every = self.job.config.evaluate_every;
        let is_due = self.step == self.steps || (every > 0 && (epoch + 1).is_multiple_of(every));
        let Some(set) = self.job.validation.as_ref().filter(|_| is_due) else { return Ok(()) };
        let summary = evaluate(self.gpu, &self.job.config.model, self.trainer.parameters()?, set, &self.job.config)?;
        self.write_log(&serde_json::json!({ "epoch": epoch, "step": self.step, "validation": summary }))?;
        let metrics = serde_json::to_string(&summary).map_err(|e| Error::Config(e.to_string()))?;
        let metadata = BTreeMap::from([("qdetr.metrics".to_owned(), metrics)]);
        if self.best.is_none_or(|(_, best)| summary.ap > best) {
            self.best = Some((epoch, summary.ap));
            self.save("best", &metadata)?;
        }
        self.save("last", &metadata)?;
        tell(Event::Evaluated { epoch, summary: &summary });
        Ok(())
    }

    fn save(&mut self, name: &str, metadata: &BTreeMap<String, String>) -> Result<()> {
        let path: &Path = &self.job.out.join(format!("{name}.safetensors"));
        self.saved = Some(self.step);
        weights::save(path, Some(&self.job.config.model), &self.trainer.parameters()?, metadata)
    }
}

/// The seed of what is dropped in a step.
fn seed(seed: u64, step: u64) -> u32 {
    generator(seed, u64::MAX, step).random()
}

/// How the batches of a job are made.
fn loader_options(job: &Job) -> LoaderOptions {
    let config = &job.config;
    LoaderOptions {
        batch: config.batch,
        buckets: config.buckets(),
        recipe: (!job.plain).then(|| config.recipe()),
        seed: config.seed,
        threads: job.threads,
        strictness: job.strictness,
    }
}

/// Compiles the plans of all sizes, the largest first: what does not fit is said before the first step.
///
/// # Errors
/// [`Error::OutOfMemory`]; failures of the device.
pub fn prepare(trainer: &mut Trainer, config: &TrainConfig) -> Result<()> {
    let mut sizes = config.buckets();
    sizes.sort_by_key(|size| std::cmp::Reverse(size.width * size.height));
    for size in sizes {
        trainer.prepare(BatchSize { images: config.batch, height: size.height, width: size.width })?;
    }
    Ok(())
}
