//! The training run: steps, log, evaluation and checkpoints, until the epochs or the time are over.

use super::TrainConfig;
use super::evaluate::evaluate;
use super::loss_scale::LossScale;
use super::optimizer::Update;
use super::resume::{Progress, State};
use super::trainer::{StepReport, Trainer};
use crate::data::augment::generator;
use crate::data::{Dataset, Loader, LoaderOptions, Strictness, TrainBatch};
use crate::eval::Summary;
use crate::gpu::Gpu;
use crate::graph::Values;
use crate::models::BatchSize;
use crate::tensor::TensorType;
use crate::{Error, Result, files, weights};
use rand::RngExt;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Without evaluation, the state is saved behind the first epoch that ends so long after the last time.
const SAVE_EVERY: Duration = Duration::from_secs(60);

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
    /// Whether to go on from the state that lies in `out`.
    pub resume: bool,
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
    /// What the loss was multiplied with for its gradient's sake.
    pub loss_scale: f32,
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
    /// The newest state could not be used, and what is done instead.
    Warning(&'a str),
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
    let mut state = Running::start(gpu, job, tell)?;
    while state.step < state.steps && !state.is_out_of_time() {
        state.one_step(tell)?;
        if state.step.is_multiple_of(state.steps_an_epoch) {
            state.behind_epoch(tell)?;
        }
    }
    if state.saved.1 != Some(state.step) {
        state.save("last", &BTreeMap::new())?;
        state.save_state()?;
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
    /// When the state was saved last, and behind how many steps.
    saved: (Instant, Option<u64>),
    best: Option<(u64, f64)>,
    loss_scale: LossScale,
}

impl<'a> Running<'a> {
    fn start(gpu: &'a Gpu, job: &'a Job, tell: &mut dyn FnMut(Event<'_>)) -> Result<Self> {
        let config = &job.config;
        let mut trainer = Trainer::new(gpu, config.model.clone(), job.start.clone(), config.trainer())?;
        prepare(&mut trainer, config)?;
        let Progress { step, best, loss_scale, .. } = if job.resume { go_on(&mut trainer, job, tell)? } else { of_job(job) };
        let (loader, batches_a_step) = (loader_options(job), config.accumulate as u64);
        let steps_an_epoch = loader.steps(job.train.images.len()) / batches_a_step;
        let loader = Loader::start(Arc::new(job.train.images.clone()), loader, step * batches_a_step)?;
        let log_path = job.out.join("log.jsonl");
        shorten_log(&log_path, step)?;
        let log = OpenOptions::new().create(true).append(true).open(&log_path).map_err(Error::io(&log_path))?;
        let steps = steps_an_epoch * config.epochs;
        let begin = Instant::now();
        let saved = (begin, job.resume.then_some(step));
        Ok(Self { gpu, job, trainer, loader, log, log_path, begin, step, steps, steps_an_epoch, saved, best, loss_scale })
    }

    fn is_out_of_time(&self) -> bool {
        self.job.max_seconds.is_some_and(|most| self.begin.elapsed().as_secs_f64() >= most)
    }

    fn one_step(&mut self, tell: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let waited = self.loader.waited();
        let config = &self.job.config;
        let batches = (0..config.accumulate).map(|_| self.loader.next_batch()).collect::<Result<Vec<_>>>()?;
        batches.iter().flat_map(|batch| &batch.skipped).for_each(|what| tell(Event::Skipped(what)));
        let group: Vec<(&TrainBatch, u32)> = batches.iter().map(|batch| (batch, seed(config.seed, batch.step))).collect();
        let factor = config.schedule.factor(self.step, self.steps);
        let update = Update { step: self.step, factor, loss_scale: self.loss_scale.value() };
        let report = self.trainer.step_of_group(&group, update)?;
        self.loss_scale = match report.grad_norm {
            Some(_) => self.loss_scale.done(),
            None => self.loss_scale.skipped()?,
        };
        let line = StepLine {
            epoch: batches[0].epoch,
            step: self.step,
            steps: self.steps,
            lr: config.lr as f32 * factor,
            loss_scale: update.loss_scale,
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
        let Some(set) = self.job.validation.as_ref().filter(|_| is_due) else {
            return if is_due || self.saved.0.elapsed() >= SAVE_EVERY { self.save_state() } else { Ok(()) };
        };
        let summary = evaluate(self.gpu, &self.job.config.model, self.trainer.average()?, set, &self.job.config)?;
        self.write_log(&serde_json::json!({ "epoch": epoch, "step": self.step, "validation": summary }))?;
        let metrics = serde_json::to_string(&summary).map_err(|e| Error::Config(e.to_string()))?;
        let metadata = BTreeMap::from([("qdetr.metrics".to_owned(), metrics)]);
        if self.best.is_none_or(|(_, best)| summary.ap > best) {
            self.best = Some((epoch, summary.ap));
            self.save("best", &metadata)?;
        }
        self.save("last", &metadata)?;
        self.save_state()?;
        tell(Event::Evaluated { epoch, summary: &summary });
        Ok(())
    }

    fn save_state(&mut self) -> Result<()> {
        let progress = Progress { step: self.step, best: self.best, loss_scale: self.loss_scale, ..of_job(self.job) };
        let state = State { progress, parameters: self.trainer.parameters()?, rest: self.trainer.state()? };
        state.save(&self.job.out)?;
        self.saved = (Instant::now(), Some(self.step));
        Ok(())
    }

    fn save(&self, name: &str, metadata: &BTreeMap<String, String>) -> Result<()> {
        let path: &Path = &self.job.out.join(format!("{name}.safetensors"));
        weights::save(path, Some(&self.job.config.model), &self.trainer.average()?, metadata)
    }
}

/// The start of a job's progress.
fn of_job(job: &Job) -> Progress {
    let TrainConfig { batch, accumulate, seed, precision, .. } = job.config;
    Progress { pictures: job.train.images.len(), batch, accumulate, seed, loss_scale: LossScale::new(precision), ..Progress::default() }
}

/// Takes parameters and moments from the state in the job's folder, and returns how far it had come.
fn go_on(trainer: &mut Trainer, job: &Job, tell: &mut dyn FnMut(Event<'_>)) -> Result<Progress> {
    let parameters = job.start.iter().map(|(name, host)| (name.clone(), TensorType::f32(host.shape().dims()))).collect();
    let (state, warning) = State::load(&job.out, &parameters, &trainer.state_types().collect())?;
    if let Some(warning) = warning {
        tell(Event::Warning(&warning));
    }
    let (theirs, ours) = (&state.progress, of_job(job));
    let [theirs_are, ours_are] = [theirs, &ours]
        .map(|p| format!("{} pictures, batches of {}, {} of them a step, and seed {}", p.pictures, p.batch, p.accumulate, p.seed));
    if theirs_are != ours_are {
        return Err(Error::Config(format!("the run to resume has {theirs_are}; this one has {ours_are}: start anew, with --from")));
    }
    trainer.restore(&state.parameters, &state.rest)?;
    Ok(state.progress)
}

/// Leaves out of the log what will be done again.
fn shorten_log(path: &Path, step: u64) -> Result<()> {
    if !path.is_file() {
        return Ok(());
    }
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let is_before = |line: &&str| {
        let line: Option<serde_json::Value> = serde_json::from_str(line).ok();
        // The line of an evaluation has the number of steps before it.
        line.is_some_and(|line| line["step"].as_u64().is_some_and(|s| if line["validation"].is_null() { s < step } else { s <= step }))
    };
    let kept: Vec<&str> = text.lines().filter(is_before).collect();
    files::write_whole(path, |file| kept.iter().try_for_each(|line| writeln!(file, "{line}")))
}

/// The seed of what is dropped in a batch.
fn seed(seed: u64, batch: u64) -> u32 {
    generator(seed, u64::MAX, batch).random()
}

/// How the batches of a job are made.
fn loader_options(job: &Job) -> LoaderOptions {
    let config = &job.config;
    LoaderOptions {
        batch: config.batch,
        group: config.accumulate,
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
