//! The training run: steps, log, evaluation and checkpoints, until the epochs or the time are over.
//!
//! What lies in its folder, each written beside its place and renamed when it is whole:
//!
//! | file | what it is |
//! | --- | --- |
//! | `last.safetensors` | the model at the last evaluation, with its metrics |
//! | `best.safetensors` | the one with the best AP |
//! | `state.safetensors`, and `state.previous.safetensors` | what a run is resumed from: see `resume.rs` |
//! | `log.jsonl` | a line of JSON for every step and evaluation |
//! | `curves.png` | loss, learning rate and AP, drawn behind an epoch |

use super::TrainConfig;
use super::distill::Teacher;
use super::evaluate::evaluate;
use super::log::{Log, StepLine, host_mb};
use super::loss_scale::LossScale;
use super::optimizer::Update;
use super::resume::{Progress, State};
use super::room::prepare;
use super::trainer::{StepReport, Trainer};
use crate::data::augment::generator;
use crate::data::{Dataset, Loader, LoaderOptions, Strictness, TrainBatch};
use crate::eval::Summary;
use crate::gpu::Gpu;
use crate::graph::Values;
use crate::tensor::TensorType;
use crate::{Error, Result, files, weights};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
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
    /// All parameters at the start; for a run to be resumed, those of its state: see [`saved`](super::saved).
    pub start: Values,
    /// Whose queries the model imitates, as [`TrainConfig::distillation`] says.
    pub teacher: Option<Teacher>,
    /// The folder of log and checkpoints; made if it is not there.
    pub out: PathBuf,
    /// Seconds after which the run is judged, saves and ends.
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

/// What a run tells while it goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step is done.
    Step(&'a StepLine),
    /// A picture could not be read, and why.
    Skipped(&'a str),
    /// The newest state could not be used, and what is done instead.
    Warning(&'a str),
    /// The model behind an epoch was evaluated, or in it when time was over.
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
    /// The best that was found on the validation pictures.
    pub best: Option<Best>,
    /// COCO's numbers of the model at the end, where this run evaluated it.
    pub last: Option<Summary>,
}

/// The best model of a run, which is kept as `best.safetensors`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The epoch that it was behind, from 0.
    pub epoch: u64,
    /// Its average precision.
    #[serde(rename = "AP")]
    pub ap: f64,
}

/// Runs a job.
///
/// # Errors
/// [`Error::Config`] for a configuration that no run can have; [`Error::OutOfMemory`] before the first step, with a batch that would
/// fit; [`Error::NotFinite`] when predictions, losses or gradients are no numbers, naming the first node that gave one, the last
/// checkpoint is kept then; failures of files and of the device.
pub fn run(gpu: &Gpu, job: &Job, tell: &mut dyn FnMut(Event<'_>)) -> Result<Outcome> {
    job.config.validate()?;
    if job.config.distillation.is_some() && job.teacher.is_none() {
        return Err(Error::Config("the configuration has a `distillation` and the run no teacher: name one, with --teacher".into()));
    }
    fs::create_dir_all(&job.out).map_err(Error::io(&job.out))?;
    files::remove_parts(&job.out)?;
    let mut state = Running::start(gpu, job, tell)?;
    while state.step < state.steps && !state.is_out_of_time() {
        state.one_step(tell)?;
        if state.step.is_multiple_of(state.steps_an_epoch) {
            state.behind_epoch(tell)?;
        }
    }
    if state.checkpoint != Some(state.step) {
        state.checkpoint(tell)?;
    }
    let best = state.best.map(|(epoch, ap)| Best { epoch, ap });
    Ok(Outcome { steps: state.step, out_of_time: state.step < state.steps, best, last: state.last })
}

/// A run on its way.
struct Running<'a> {
    gpu: &'a Gpu,
    job: &'a Job,
    trainer: Trainer,
    loader: Loader,
    /// The batches of the next step, or why there are none.
    ahead: Option<Result<Vec<TrainBatch>>>,
    log: Log,
    begin: Instant,
    step: u64,
    steps: u64,
    steps_an_epoch: u64,
    /// When the state was saved last, and behind how many steps.
    saved: (Instant, u64),
    /// Behind how many steps the model was saved too.
    checkpoint: Option<u64>,
    best: Option<(u64, f64)>,
    last: Option<Summary>,
    loss_scale: LossScale,
}

impl<'a> Running<'a> {
    fn start(gpu: &'a Gpu, job: &'a Job, tell: &mut dyn FnMut(Event<'_>)) -> Result<Self> {
        let config = &job.config;
        let mut trainer = config.start(gpu, job.start.clone(), job.teacher.clone())?;
        prepare(&mut trainer, config)?;
        let Progress { step, best, loss_scale, .. } = if job.resume { go_on(&mut trainer, job, tell)? } else { of_job(job) };
        let (loader, batches_a_step) = (loader_options(job), config.accumulate as u64);
        let steps_an_epoch = loader.steps(job.train.images.len()) / batches_a_step;
        let loader = Loader::start(Arc::new(job.train.images.clone()), loader, step * batches_a_step)?;
        let log = Log::open(&job.out, step)?;
        let (steps, begin) = (steps_an_epoch * config.epochs, Instant::now());
        let (saved, checkpoint, last) = ((begin, step), job.resume.then_some(step), None);
        let mut running = Self {
            gpu,
            job,
            trainer,
            loader,
            ahead: None,
            log,
            begin,
            step,
            steps,
            steps_an_epoch,
            saved,
            checkpoint,
            best,
            last,
            loss_scale,
        };
        if !job.resume {
            // A run that ends before its first epoch shall not be resumed from what another one left in this folder.
            running.save_state()?;
            State::forget_previous(&job.out)?;
        }
        Ok(running)
    }

    fn is_out_of_time(&self) -> bool {
        self.job.max_seconds.is_some_and(|most| self.begin.elapsed().as_secs_f64() >= most)
    }

    fn one_step(&mut self, tell: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let waited = self.loader.waited();
        let config = &self.job.config;
        let batches = self.ahead.take().unwrap_or_else(|| next_batches(&mut self.loader, config))?;
        batches.iter().flat_map(|batch| &batch.skipped).for_each(|what| tell(Event::Skipped(what)));
        let group: Vec<(&TrainBatch, u32)> = batches.iter().map(|batch| (batch, seed(config.seed, batch.step))).collect();
        let factor = config.schedule.factor(self.step, self.steps);
        let update = Update { step: self.step, factor, loss_scale: self.loss_scale.value() };
        let report = match self.update(&group, update) {
            Err(Error::NotFinite(what)) => return Err(self.explain(&what, &group, update.loss_scale)),
            report => report?,
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
            host_mb: host_mb(),
            device_mb: self.gpu.allocated().map(|bytes| bytes as f64 / 1e6),
        };
        self.log.step(&line)?;
        self.step += 1;
        tell(Event::Step(&line));
        Ok(())
    }

    /// An update; while the device is busy with it, the batches of the next one are fetched and the first is uploaded.
    fn update(&mut self, group: &[(&TrainBatch, u32)], update: Update) -> Result<StepReport> {
        let pending = self.trainer.submit(group, update)?;
        if self.step + 1 < self.steps {
            let ahead = next_batches(&mut self.loader, &self.job.config);
            if let Some(batch) = ahead.as_ref().ok().and_then(|batches| batches.first()) {
                self.trainer.upload(batch, seed(self.job.config.seed, batch.step));
            }
            self.ahead = Some(ahead);
        }
        let report = self.trainer.finish(pending)?;
        self.loss_scale = match report.grad_norm {
            Some(_) => self.loss_scale.done(),
            None => self.loss_scale.skipped()?,
        };
        Ok(report)
    }

    /// Says where the numbers of a step stopped being finite, and what is left of the run.
    fn explain(&mut self, what: &str, group: &[(&TrainBatch, u32)], loss_scale: f32) -> Error {
        let mut found = group.iter().map(|&(batch, seed)| self.trainer.first_not_finite(batch, seed, loss_scale));
        let place = match found.find_map(Result::transpose) {
            Some(Ok(place)) => place,
            Some(Err(error)) => format!("the batch could not be looked into: {error}"),
            None => "when the batch was run once more, everything was finite".into(),
        };
        let (step, saved, out) = (self.step, self.saved.1, self.job.out.display());
        Error::NotFinite(format!("step {step}: {what}; {place}; the state behind {saved} steps is kept in {out}"))
    }

    /// Saves when it is time, and draws.
    fn behind_epoch(&mut self, tell: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let (epochs, every) = (self.step / self.steps_an_epoch, self.job.config.evaluate_every);
        if self.step == self.steps || (every > 0 && epochs.is_multiple_of(every)) {
            return self.checkpoint(tell);
        }
        if self.saved.0.elapsed() >= SAVE_EVERY {
            self.save_state()?;
        }
        self.log.draw_now_and_then()
    }

    /// Evaluates where there is something to be judged on, and saves model and state.
    fn checkpoint(&mut self, tell: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let epoch = self.step.saturating_sub(1) / self.steps_an_epoch;
        let mut metadata = BTreeMap::new();
        // What has learnt nothing is no candidate for the best.
        if let Some(set) = self.job.validation.as_ref().filter(|_| self.step > 0) {
            let summary = evaluate(self.gpu, &self.job.config.model, self.trainer.average()?, set, &self.job.config)?;
            self.log.evaluation(epoch, self.step, &summary)?;
            let metrics = serde_json::to_string(&summary).map_err(|e| Error::Config(e.to_string()))?;
            metadata.insert("qdetr.metrics".to_owned(), metrics);
            if self.best.is_none_or(|(_, best)| summary.ap > best) {
                self.best = Some((epoch, summary.ap));
                self.save("best", &metadata)?;
            }
            self.last = Some(summary);
        }
        self.save("last", &metadata)?;
        self.save_state()?;
        self.checkpoint = Some(self.step);
        self.log.draw()?;
        if let Some(summary) = &self.last {
            tell(Event::Evaluated { epoch, summary });
        }
        Ok(())
    }

    fn save_state(&mut self) -> Result<()> {
        let progress = Progress { step: self.step, best: self.best, loss_scale: self.loss_scale, ..of_job(self.job) };
        let state = State { progress, parameters: self.trainer.parameters()?, rest: self.trainer.state()? };
        check_finite(&state.parameters)?;
        state.save(&self.job.out)?;
        self.saved = (Instant::now(), self.step);
        Ok(())
    }

    fn save(&self, name: &str, metadata: &BTreeMap<String, String>) -> Result<()> {
        let path: &Path = &self.job.out.join(format!("{name}.safetensors"));
        let parameters = self.trainer.average()?;
        check_finite(&parameters)?;
        weights::save(path, Some(&self.job.config.model), &parameters, metadata)
    }
}

/// Keeps a good checkpoint from being replaced by a bad one: a maximum of NaN and 0 may be 0, so that losses need not show it.
fn check_finite(parameters: &Values) -> Result<()> {
    for (name, host) in parameters {
        if let Some(value) = host.to_f32().iter().find(|v| !v.is_finite()) {
            return Err(Error::NotFinite(format!("parameter `{name}` has an element that is {value}: it is not saved")));
        }
    }
    Ok(())
}

/// The start of a job's progress.
fn of_job(job: &Job) -> Progress {
    let TrainConfig { batch, accumulate, seed, precision, .. } = job.config;
    let (pictures, quantization) = (job.train.images.len(), job.config.model.quantization.clone());
    let distillation = job.teacher.as_ref().map(|_| job.config.distilling());
    Progress { pictures, batch, accumulate, seed, loss_scale: LossScale::new(precision), quantization, distillation, ..Progress::default() }
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
    let [theirs_are, ours_are] = [theirs, &ours].map(|p| p.quantization.as_ref().map_or("floats".to_owned(), ToString::to_string));
    if theirs.quantization != ours.quantization {
        let signs = if theirs_are == ours_are { ", with other signs" } else { "" };
        return Err(Error::Config(format!(
            "the run to resume is of {theirs_are}; this one is of {ours_are}{signs}: start anew, with --from"
        )));
    }
    if theirs.distillation != ours.distillation {
        let [theirs_has, ours_has] =
            [theirs, &ours].map(|p| p.distillation.map_or("no teacher".to_owned(), |d| format!("a teacher and {d:?}")));
        return Err(Error::Config(format!(
            "the run to resume has {theirs_has}; this one has {ours_has}: name the same, or start anew, with --from"
        )));
    }
    trainer.restore(&state.parameters, &state.rest)?;
    Ok(state.progress)
}

/// The batches of an update.
fn next_batches(loader: &mut Loader, config: &TrainConfig) -> Result<Vec<TrainBatch>> {
    (0..config.accumulate).map(|_| loader.next_batch()).collect()
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
