//! A model in training on a device: parameters, gradients and moments in arenas, one plan a batch size, and the step.

mod diagnose;
mod shared;

use super::criterion::{Criterion, Losses, PredictionShape, TERMS};
use super::distill::{Distillation, Teacher};
use super::graph::{GRADIENT, LOSS_SCALE, StepOptions, TrainGraph, train_graph};
use super::groups::{GroupConfig, Groups};
use super::matcher::Targets;
use super::optimizer::{Optimizer, OptimizerOptions, Update};
use super::teaching::{DISTILLATION, TEACHER, TEACHER_BOXES, Teaching, partners};
use crate::Result;
use crate::data::TrainBatch;
use crate::gpu::Gpu;
use crate::graph::{Arena, Graph, Halves, Layout, Links, MemoryReport, Needs, Params, Plan, PlanOptions, Scratch, Values, fold, fuse};
use crate::models::{BatchSize, ModelConfig};
use crate::nn::Precision;
use crate::tensor::{DType, Host, TensorType};
use serde::Serialize;
use shared::{Shared, SharedArenas};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// What a step gave, and where its time went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// The losses before the update.
    pub losses: Losses,
    /// Global norm of the gradient before it is clipped; `None` when it was not finite and the update was skipped.
    pub grad_norm: Option<f32>,
    /// Seconds from writing a batch to having its predictions. The later batches of an update wait here for the gradients of the
    /// batch before.
    pub forward: f64,
    /// Seconds of matching and of making the targets.
    pub matching: f64,
    /// Seconds of losses, gradients and update, without what [`Trainer::upload`] took meanwhile.
    pub backward: f64,
    /// Of all these, seconds of writing, encoding and submitting: the rest of `forward` and `backward` is waiting for the device.
    pub host: f64,
}

/// Where the time of a step goes: see [`StepReport`].
#[derive(Debug, Default)]
struct Times {
    forward: Duration,
    matching: Duration,
    backward: Duration,
    host: Duration,
}

/// A step that the device works on: see [`Trainer::submit`].
#[derive(Debug)]
pub struct Pending {
    times: Times,
    shape: PredictionShape,
}

/// The size of a batch.
fn size_of(batch: &TrainBatch) -> BatchSize {
    BatchSize::of(&batch.batch.pictures)
}

/// The plan for one batch size.
struct Program {
    plan: Plan,
    shape: PredictionShape,
    /// What its shared launches have beside the plan's own buffers.
    arenas: Option<SharedArenas>,
}

impl Program {
    /// Writes what the forward reads. Pictures come as [`StepOptions::entry`] says.
    fn write_batch(&self, batch: &TrainBatch, seed: u32) {
        batch.batch.pictures.inputs().into_iter().for_each(|(name, host)| self.plan.write(name, host));
        self.plan.write("seed", &Host::u32([1], vec![seed]));
    }

    /// Matches the predictions with objects, and with those of a teacher, and writes what the losses read.
    fn write_targets(&self, judge: &Judge, predictions: &Values, targets: &[Targets]) -> Result<()> {
        let (logits, boxes) = (predictions["logits"].to_f32(), predictions["boxes"].to_f32());
        let matches = judge.criterion.match_predictions(&logits, &boxes, targets, self.shape)?;
        let mut values = judge.criterion.targets(&matches, targets, self.shape);
        if let Some(distillation) = judge.distillation {
            let teacher = predictions[TEACHER_BOXES].to_f32();
            values.extend(partners(distillation, [&boxes, &teacher], targets, self.shape)?);
        }
        values.iter().for_each(|(name, host)| self.plan.write(name, host));
        Ok(())
    }
}

/// What predictions are held to.
struct Judge {
    criterion: Criterion,
    distillation: Option<Distillation>,
}

/// See the module.
pub struct Trainer {
    gpu: Gpu,
    config: ModelConfig,
    options: StepOptions,
    teacher: Option<(ModelConfig, Distillation)>,
    groups: Groups,
    /// All parameters as they started; those that are not trained are so still.
    start: Values,
    /// The teacher's parameters, by their names in the graph.
    taught: Values,
    constants: Params,
    weights: Arena,
    gradients: Arena,
    /// The weights in the element type that the network computes in, if it is another.
    halves: Option<Halves>,
    optimizer: Option<Optimizer>,
    optimizer_options: OptimizerOptions,
    scratch: Scratch,
    programs: Vec<(BatchSize, Program)>,
    /// The batch that has been uploaded already, by epoch, step and seed.
    uploaded: Option<(BatchSize, [u64; 2], u32)>,
}

/// What does not change in a run.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainerOptions {
    /// How a step computes.
    pub step: StepOptions,
    /// Which parameters are trained, and how fast.
    pub groups: GroupConfig,
    /// How they are updated.
    pub optimizer: OptimizerOptions,
}

impl Trainer {
    /// A trainer of a model with the given parameters, f32.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for a configuration that no model or run can have; failures of the device.
    ///
    /// # Panics
    /// When a parameter is missing or has another shape.
    pub fn new(gpu: &Gpu, config: ModelConfig, start: Values, options: TrainerOptions) -> Result<Self> {
        config.validate()?;
        options.optimizer.validate()?;
        options.step.precision.check(gpu)?;
        let start: Values = start.into_iter().map(|(name, host)| (name, host.cast(DType::F32))).collect();
        let stride = config.backbone.stride();
        let smallest = BatchSize { images: 1, height: stride, width: stride };
        let built = train_graph(&config, smallest, options.step, None, &|_| true);
        for (name, spec) in &built.specs {
            assert_eq!(start.get(name).map(Host::shape), Some(spec.shape), "parameter `{name}`");
        }
        let groups = Groups::new(&options.groups, &built.specs)?.with_gradient(|name| built.trained.contains_key(name));
        let weights = Arena::new(gpu, "weights", groups.layout())?;
        weights.write(gpu, &start);
        let halves = (options.step.precision == Precision::F16).then(|| Halves::new(gpu, groups.layout())).transpose()?;
        Ok(Self {
            halves,
            gpu: gpu.clone(),
            config,
            options: options.step,
            teacher: None,
            taught: Values::new(),
            start,
            constants: Params::upload(gpu, &Values::new())?,
            gradients: Arena::new(gpu, "gradients", groups.layout())?,
            weights,
            optimizer: None,
            optimizer_options: options.optimizer,
            groups,
            scratch: Scratch::default(),
            programs: Vec::new(),
            uploaded: None,
        })
    }

    /// The same with a teacher whose queries are imitated.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when the two do not fit.
    ///
    /// # Panics
    /// When plans have been prepared.
    pub fn with_teacher(self, teacher: Teacher, distillation: Distillation) -> Result<Self> {
        assert!(self.programs.is_empty(), "a teacher comes before the plans");
        teacher.check(&self.config, &distillation)?;
        let named = |(name, host): (String, Host)| (format!("{TEACHER}.{name}"), host.cast(DType::F32));
        let taught = teacher.params.into_iter().map(named).collect();
        Ok(Self { teacher: Some((teacher.config, distillation)), taught, ..self })
    }

    fn teaching(&self) -> Option<Teaching<'_>> {
        self.teacher.as_ref().map(|(teacher, distillation)| Teaching { teacher, distillation: *distillation })
    }

    fn judge(&self) -> Judge {
        Judge { criterion: self.options.criterion, distillation: self.teacher.as_ref().map(|&(_, distillation)| distillation) }
    }

    fn train_graph(&self, size: BatchSize) -> TrainGraph {
        train_graph(&self.config, size, self.options, self.teaching(), &|name| self.groups.contains(name))
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Names and types of what is trained.
    pub fn layout(&self) -> &Layout {
        self.weights.layout()
    }

    /// Compiles the plan for a size, if there is none, and says what it holds. Sizes may come in any order; the largest first
    /// spares memory.
    ///
    /// # Errors
    /// As [`Plan::compile`].
    pub fn prepare(&mut self, size: BatchSize) -> Result<MemoryReport> {
        if let Some((_, program)) = self.programs.iter().find(|(s, _)| *s == size) {
            return Ok(program.plan.memory());
        }
        let (graph, shape) = self.graph(size)?;
        if self.optimizer.is_none() {
            self.optimizer = Some(self.optimizer(shape)?);
        }
        let mut links = self.weights.links("");
        links.extend(self.halves.iter().flat_map(|halves| halves.links(&self.weights)));
        links.extend(self.gradients.links(GRADIENT));
        links.extend(self.optimizer.iter().flat_map(Optimizer::links));
        let shared = Shared::of(&graph, self.weights.layout());
        let arenas = SharedArenas::new(&self.gpu, &shared, self.programs.iter().filter_map(|(_, program)| program.arenas.as_ref()))?;
        links.extend(arenas.links(&self.weights, &self.gradients));
        let plan = self.compile(&shared.graph, &links)?;
        let report = plan.memory();
        self.programs.push((size, Program { plan, shape, arenas: Some(arenas) }));
        Ok(report)
    }

    /// The graph for a size as it is compiled, with its constants on the device.
    fn graph(&mut self, size: BatchSize) -> Result<(Graph, PredictionShape)> {
        let TrainGraph { graph, shape, .. } = self.train_graph(size);
        let layout = self.weights.layout().clone();
        let is_trained = |name: &str| layout.contains(name);
        let fused = fuse(&graph, &is_trained);
        let folded = fold(&fused, &is_trained);
        let known: Values = self.start.iter().chain(&self.taught).map(|(name, host)| (name.clone(), host.clone())).collect();
        let missing = folded.evaluate(&known, &|name| !is_trained(name) && !self.constants.contains(name));
        if !missing.is_empty() {
            self.constants = self.constants.extend(&self.gpu, &missing)?;
        }
        Ok((folded.graph, shape))
    }

    /// What the plan for a size needs beside weights, gradients and moments, without a look at the device.
    pub fn needs(&self, size: BatchSize) -> Needs {
        let TrainGraph { graph, .. } = self.train_graph(size);
        let layout = self.weights.layout();
        let fused = fuse(&graph, &|name| layout.contains(name));
        let is_gradient = |name: &str| name.strip_prefix(GRADIENT).is_some_and(|name| layout.contains(name));
        let folded = fold(&fused, &|name| layout.contains(name));
        Shared::of(&folded.graph, layout)
            .needs(&|name| layout.contains(name) || is_gradient(name) || TERMS.contains(&name) || name == DISTILLATION)
    }

    /// Gives the memory of all plans back; they are compiled again when they are wanted.
    ///
    /// # Errors
    /// A failure of the device.
    pub(super) fn forget_plans(&mut self) -> Result<()> {
        self.programs.clear();
        self.uploaded = None;
        self.scratch = Scratch::default();
        self.gpu.wait()
    }

    /// Kernel launches of an update from batches of a size that was prepared.
    pub fn dispatches(&self, size: BatchSize) -> Option<usize> {
        let of_batch = self.plan(size)?.dispatches();
        self.optimizer.as_ref().map(|optimizer| optimizer.dispatches() + of_batch * self.optimizer_options.accumulate)
    }

    /// The plan of a batch size that was prepared.
    pub fn plan(&self, size: BatchSize) -> Option<&Plan> {
        self.programs.iter().find(|(s, _)| *s == size).map(|(_, program)| &program.plan)
    }

    /// An optimizer that reads the losses of predictions of a shape back together with its own answer.
    fn optimizer(&self, shape: PredictionShape) -> Result<Optimizer> {
        let part = TensorType::f32([shape.layers * shape.images * shape.groups]);
        let distance = self.teacher.as_ref().map(|_| (DISTILLATION.to_owned(), TensorType::f32([1])));
        let losses = TERMS.map(|name| (name.to_owned(), part)).into_iter().chain(distance);
        let arenas = [&self.weights, &self.gradients];
        let optimizer = Optimizer::new(&self.gpu, self.optimizer_options, self.groups.clone(), arenas, losses)?;
        optimizer.reset(&self.gpu, &self.start);
        Ok(optimizer)
    }

    fn compile(&mut self, graph: &Graph, links: &Links) -> Result<Plan> {
        let replaced = self.scratch.replaced();
        let plan = Plan::compile_linked(&self.gpu, graph, &self.constants, links, &mut self.scratch, PlanOptions::default())?;
        if self.scratch.replaced() > replaced {
            // Older plans would keep the smaller scratch alive.
            self.programs.clear();
            self.uploaded = None;
        }
        Ok(plan)
    }

    /// One step on one batch: forward, matching, losses, gradients, update; `seed` decides what is dropped. Two read-backs: the
    /// predictions, and the losses with the norm.
    ///
    /// # Errors
    /// As [`Trainer::step_of_group`].
    ///
    /// # Panics
    /// As [`Trainer::step_of_group`].
    pub fn step(&mut self, batch: &TrainBatch, seed: u32, update: Update) -> Result<StepReport> {
        self.step_of_group(&[(batch, seed)], update)
    }

    /// One update from the mean gradient of several batches, each with the seed of what is dropped: one read-back for the
    /// predictions of each, and one in the end.
    ///
    /// # Errors
    /// [`crate::Error::NotFinite`] when a prediction or a loss is no finite number; failures of the device.
    ///
    /// # Panics
    /// When there are not as many batches as [`OptimizerOptions::accumulate`] says.
    pub fn step_of_group(&mut self, group: &[(&TrainBatch, u32)], update: Update) -> Result<StepReport> {
        let pending = self.submit(group, update)?;
        self.finish(pending)
    }

    /// The first part of [`Trainer::step_of_group`]: waits for the predictions only, and leaves the device with the rest.
    ///
    /// # Errors
    /// As [`Trainer::step_of_group`].
    ///
    /// # Panics
    /// As [`Trainer::step_of_group`].
    pub fn submit(&mut self, group: &[(&TrainBatch, u32)], update: Update) -> Result<Pending> {
        assert_eq!(group.len(), self.optimizer_options.accumulate, "batches of one update");
        let mut times = Times::default();
        let mut shape = None;
        for (i, &(batch, seed)) in group.iter().enumerate() {
            self.prepare(size_of(batch))?;
            shape = Some(self.differentiate(batch, seed, update.loss_scale, i == 0, &mut times)?);
        }
        let (Some(shape), Some(optimizer)) = (shape, &self.optimizer) else { unreachable!("there is a batch, and prepare was called") };
        let start = Instant::now();
        optimizer.submit(update)?;
        times.host += start.elapsed();
        times.backward += start.elapsed();
        Ok(Pending { times, shape })
    }

    /// Copies the batch that the next step begins with to where the device takes it from, behind all that was submitted: between
    /// [`Trainer::submit`] and [`Trainer::finish`] that takes no time of the device's. A batch whose plan is not there waits for its step.
    pub fn upload(&mut self, batch: &TrainBatch, seed: u32) {
        let size = size_of(batch);
        if let Some((_, program)) = self.programs.iter().find(|(s, _)| *s == size) {
            program.write_batch(batch, seed);
            self.uploaded = Some((size, [batch.epoch, batch.step], seed));
        }
    }

    /// The second part of [`Trainer::step_of_group`]: waits for the update.
    ///
    /// # Errors
    /// As [`Trainer::step_of_group`].
    ///
    /// # Panics
    /// When nothing was submitted.
    pub fn finish(&self, Pending { times, shape }: Pending) -> Result<StepReport> {
        let start = Instant::now();
        let found = self.optimizer.as_ref().expect("a step was submitted").found()?;
        let mut losses = self.options.criterion.losses(&found.beside, shape)?;
        if self.teacher.is_some() {
            losses.add_distillation(found.beside[DISTILLATION].to_f32()[0])?;
        }
        let [forward, matching, backward, host] =
            [times.forward, times.matching, times.backward + start.elapsed(), times.host].map(|time: Duration| time.as_secs_f64());
        Ok(StepReport { losses, grad_norm: found.grad_norm, forward, matching, backward, host })
    }

    /// Forward, matching, losses and gradients of a batch whose plan is there; waits for the predictions only.
    fn differentiate(
        &mut self,
        batch: &TrainBatch,
        seed: u32,
        loss_scale: f32,
        is_first: bool,
        times: &mut Times,
    ) -> Result<PredictionShape> {
        let size = size_of(batch);
        let is_there = self.uploaded.take() == Some((size, [batch.epoch, batch.step], seed));
        let (Some((_, program)), Some(optimizer)) = (self.programs.iter().find(|(s, _)| *s == size), &self.optimizer) else {
            unreachable!("prepare has made both")
        };
        let (plan, shape) = (&program.plan, program.shape);
        let start = Instant::now();
        if !is_there {
            program.write_batch(batch, seed);
        }
        plan.run_segment(0)?;
        let rest = plan.encode_segment(1);
        let written = start.elapsed();
        let predictions = plan.read_segment(0)?;
        let forward = start.elapsed();
        program.write_targets(&self.judge(), &predictions, &batch.targets)?;
        let matched = start.elapsed();
        plan.write(LOSS_SCALE, &Host::f32([1], vec![loss_scale]));
        plan.submit(rest)?;
        optimizer.collect(is_first)?;
        let submitted = start.elapsed() - matched;
        times.forward += forward;
        times.matching += matched - forward;
        times.backward += submitted;
        times.host += written + submitted;
        Ok(shape)
    }

    /// All parameters as they are now, those included that are not trained.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn parameters(&self) -> Result<Values> {
        let mut all = self.start.clone();
        all.extend(self.weights.read(&self.gpu)?);
        Ok(all)
    }

    /// What training depends on beside the parameters: moments and counters, empty before the first plan.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn state(&self) -> Result<Values> {
        self.optimizer.as_ref().map_or_else(|| Ok(Values::new()), |o| o.state(&self.gpu))
    }

    /// Names and types of [`Trainer::state`].
    ///
    /// # Panics
    /// Before [`Trainer::prepare`].
    pub fn state_types(&self) -> impl Iterator<Item = (String, TensorType)> {
        self.optimizer.as_ref().expect("prepare was called").state_types()
    }

    /// The average of the trained parameters in place of themselves, beside those that are not trained; the parameters when no
    /// average is kept.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn average(&self) -> Result<Values> {
        let average = self.optimizer.as_ref().and_then(Optimizer::average);
        let mut all = self.start.clone();
        all.extend(average.unwrap_or(&self.weights).read(&self.gpu)?);
        Ok(all)
    }

    /// Goes on from parameters and a [`Trainer::state`]; there must be a plan.
    ///
    /// # Errors
    /// [`crate::Error::Config`] naming what is missing or of another shape: they are of another run. Nothing is changed then.
    ///
    /// # Panics
    /// Before [`Trainer::prepare`].
    pub fn restore(&mut self, parameters: &Values, state: &Values) -> Result<()> {
        self.optimizer.as_ref().expect("prepare was called").restore(&self.gpu, parameters, state)
    }

    /// Bytes on the device by kind: weights, gradients, moments, parameters that are not trained, and what the plans hold.
    pub fn memory(&self) -> BTreeMap<&'static str, usize> {
        let arena = self.weights.layout().bytes();
        let optimizer = self.optimizer.as_ref().map_or(0, Optimizer::bytes);
        let weights = arena + self.halves.as_ref().map_or(0, Halves::bytes);
        let arenas = SharedArenas::bytes(self.programs.iter().filter_map(|(_, p)| p.arenas.as_ref()));
        let plans = self.programs.iter().map(|(_, p)| p.plan.memory());
        let (io, scratch) = plans.fold((arenas, 0), |(io, scratch), m| (io + m.io, m.scratch.max(scratch)));
        let constants = self.constants.bytes();
        BTreeMap::from([
            ("weights", weights),
            ("constants", constants),
            ("gradients", arena),
            ("optimizer", optimizer),
            ("scratch", scratch),
            ("io", io),
        ])
    }
}

impl fmt::Debug for Trainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<BatchSize> = self.programs.iter().map(|(size, _)| *size).collect();
        f.debug_struct("Trainer").field("programs", &sizes).finish_non_exhaustive()
    }
}
