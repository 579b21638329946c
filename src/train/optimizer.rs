//! AdamW on flat arenas: the update of all trained parameters, a plan of its own, a few launches whatever the model.
//!
//! Norm of the gradient, clipping by it, the update, the average: nothing of it waits for the host. Whether an update was done or
//! skipped, because its gradient was not finite, is read back together with the losses of the step.

use super::accumulate::Accumulator;
use super::groups::Groups;
use crate::gpu::Gpu;
use crate::graph::{Arena, Graph, Layout, Links, Params, Plan, PlanOptions, Scratch, Values};
use crate::kernels::concat::concat;
use crate::kernels::optim::{self, AdamW, BLOCK, CONTROL, Control, STATE, average, control, square_sums};
use crate::tensor::{DType, Host, TensorType};
use crate::{Error, Result};
use std::sync::Arc;

/// Before the names of parameters: their moments and their average. Then the optimizer's counters.
const FIRST: &str = "first.";
const SECOND: &str = "second.";
const AVERAGE: &str = "average.";
const COUNTERS: &str = "counters";

/// How parameters are updated; rates are those of the [`Groups`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerOptions {
    /// Decay of the running means of the gradient and of its square: β₁ and β₂.
    pub betas: [f64; 2],
    /// ε, added to the root of the running mean square.
    pub epsilon: f64,
    /// The global norm that gradients are scaled down to, 0.1 in DETR; nothing is scaled without it.
    pub clip: Option<f32>,
    /// Decay of an average of the parameters that is kept beside them, if one is. In the first steps it is less,
    /// `(1 + step) / (10 + step)`, so that the start is forgotten.
    pub average: Option<f64>,
    /// Batches whose mean gradient makes one update.
    pub accumulate: usize,
}

impl Default for OptimizerOptions {
    /// DETR's: 0.9 and 0.999, 1e-8, clipped to 0.1, no average, one batch an update.
    fn default() -> Self {
        Self { betas: [0.9, 0.999], epsilon: 1e-8, clip: Some(0.1), average: None, accumulate: 1 }
    }
}

impl OptimizerOptions {
    /// Checks what the type system does not.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field and what it may be.
    pub fn validate(&self) -> Result<()> {
        let check = |right: bool, what: String| if right { Ok(()) } else { Err(Error::Config(what)) };
        let below_one = |v: f64| (0.0..1.0).contains(&v);
        check(self.betas.iter().all(|&b| b > 0.0 && below_one(b)), format!("`betas` are {:?}; they must lie between 0 and 1", self.betas))?;
        check(self.epsilon > 0.0 && below_one(self.epsilon), format!("`epsilon` is {}; it must lie between 0 and 1", self.epsilon))?;
        let clip = self.clip.unwrap_or(1.0);
        check(clip > 0.0 && clip.is_finite(), format!("`clip` is {clip}; it must be above 0"))?;
        let average = self.average.unwrap_or(0.0);
        check(below_one(average), format!("`average` is {average}; it must be from 0 to below 1"))?;
        check(self.accumulate > 0, "`accumulate` is 0; an update takes at least 1 batch".into())
    }
}

/// What differs from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// The step, from 0.
    pub step: u64,
    /// Factor of the learning rates: see [`super::schedule::Schedule::factor`].
    pub factor: f32,
    /// How many times too large the gradients are.
    pub loss_scale: f32,
}

/// What is read back behind an update.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The values that other plans computed for the host, the losses; the mean over the batches of the update.
    pub beside: Values,
    /// Global norm of the gradient before it is clipped; `None` when it is not finite and the update was not done.
    pub grad_norm: Option<f32>,
    /// Updates done so far.
    pub done: u64,
    /// Updates skipped so far.
    pub skipped: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Optimizer {
    plan: Plan,
    options: OptimizerOptions,
    groups: Groups,
    weights: Arena,
    beside: Arena,
    first: Arena,
    second: Arena,
    average: Option<Arena>,
    accumulator: Option<Accumulator>,
    counters: Arena,
}

impl Optimizer {
    /// An optimizer at rest, of weights and gradients in arenas of the groups' layout. What is named in `beside`, f32 vectors that
    /// other plans compute into [`Optimizer::links`], is read back together with its own answer.
    ///
    /// # Errors
    /// [`Error::Config`] on options that cannot be; [`Error::OutOfMemory`], and failures of the device.
    ///
    /// # Panics
    /// When the arenas are of another layout than the groups'.
    pub fn new(
        gpu: &Gpu,
        options: OptimizerOptions,
        groups: Groups,
        [weights, gradients]: [&Arena; 2],
        beside: impl IntoIterator<Item = (String, TensorType)>,
    ) -> Result<Self> {
        options.validate()?;
        assert!(weights.layout() == groups.layout() && gradients.layout() == groups.layout(), "arenas of another layout than the groups'");
        let arena = |label: &str| Arena::new(gpu, label, groups.layout());
        let small = |label: &str, layout: Layout| Arena::new(gpu, label, &Arc::new(layout));
        let (first, second) = (arena("first moments")?, arena("second moments")?);
        let average = options.average.map(|_| arena("average of the weights")).transpose()?;
        let beside = small("losses", Layout::new(beside))?;
        let accumulator = (options.accumulate > 1).then(|| Accumulator::new(gpu, gradients, &beside)).transpose()?;
        let gradients = accumulator.as_ref().map_or(gradients, Accumulator::gradients);
        let counters = small("counters", Layout::new([(COUNTERS.to_owned(), TensorType::f32([STATE]))]))?;
        let mut links: Links = beside.links("").into_iter().chain(counters.links("")).collect();
        let arenas = [("weights", weights), ("gradients", gradients), ("first", &first), ("second", &second)];
        let arenas = arenas.into_iter().chain(average.as_ref().map(|average| ("average", average)));
        links.extend(arenas.map(|(name, arena)| (name.to_owned(), arena.whole())));
        let (graph, params) = (graph(&options, &groups, beside.layout()), Params::upload(gpu, &Values::new())?);
        let plan = Plan::compile_linked(gpu, &graph, &params, &links, &mut Scratch::default(), PlanOptions::default())?;
        plan.write("group", &groups.blocks());
        Ok(Self { plan, options, groups, weights: weights.clone(), beside, first, second, average, accumulator, counters })
    }

    /// Where other plans shall write what is read back together with the optimizer's answer.
    pub fn links(&self) -> Links {
        self.accumulator.as_ref().map_or_else(|| self.beside.links(""), Accumulator::links)
    }

    /// The average of the weights, when one is kept.
    pub fn average(&self) -> Option<&Arena> {
        self.average.as_ref()
    }

    /// Bytes on the device beside weights and gradients.
    pub fn bytes(&self) -> usize {
        let large = self.first.layout().bytes() * (2 + usize::from(self.average.is_some()));
        let sums = self.accumulator.as_ref().map_or(0, Accumulator::bytes);
        large + sums + self.plan.memory().total() + self.beside.layout().bytes() + self.counters.layout().bytes()
    }

    /// Takes the gradients and losses of one batch into its update, behind everything submitted so far; nothing is to be done for
    /// updates of a single batch.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn collect(&self, is_first: bool) -> Result<()> {
        self.accumulator.as_ref().map_or(Ok(()), |accumulator| accumulator.add(is_first))
    }

    /// Updates, and waits for everything submitted so far.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn update(&self, update: Update) -> Result<Found> {
        self.submit(update)?;
        self.found()
    }

    /// Submits an update, behind everything submitted so far.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn submit(&self, Update { step, factor, loss_scale }: Update) -> Result<()> {
        self.plan.write("rates", &self.groups.rates(factor));
        self.plan.write("inverse_scale", &Host::f32([1], vec![1.0 / (loss_scale * self.options.accumulate as f32)]));
        if let Some(decay) = self.options.average {
            let decay = decay.min((1 + step) as f64 / (10 + step) as f64);
            self.plan.write("average_rate", &Host::f32([1], vec![(1.0 - decay) as f32]));
        }
        self.plan.run()
    }

    /// Waits for the last update, and says what became of it.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn found(&self) -> Result<Found> {
        let report = self.plan.read()?;
        let report = report["report"].to_f32();
        let (control, mut rest) = report.split_at(CONTROL);
        let mut beside = Values::new();
        for (name, _, ty) in self.beside.layout().places() {
            let (own, further) = rest.split_at(ty.shape.len());
            let mean = own.iter().map(|sum| sum / self.options.accumulate as f32).collect();
            beside.insert(name.to_owned(), Host::f32(ty.shape.dims(), mean));
            rest = further;
        }
        let grad_norm = (control[2] != 0.0).then_some(control[0]);
        Ok(Found { beside, grad_norm, done: control[3] as u64, skipped: control[4] as u64 })
    }

    /// Forgets everything: moments and counters are 0, the average is the given weights.
    ///
    /// # Panics
    /// When a weight is of another type.
    pub fn reset(&self, gpu: &Gpu, weights: &Values) {
        for (prefix, arena) in self.parts() {
            let zeros = arena.layout().places().map(|(name, _, ty)| (name.to_owned(), Host::zeros(ty)));
            let values = if prefix == AVERAGE { weights.clone() } else { zeros.collect() };
            arena.write(gpu, &values);
        }
    }

    /// Everything that an update depends on beside weights and gradients: `first.NAME`, `second.NAME`, `average.NAME` when an
    /// average is kept, and `counters`.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn state(&self, gpu: &Gpu) -> Result<Values> {
        let mut all = Values::new();
        for (prefix, arena) in self.parts() {
            all.extend(arena.read(gpu)?.into_iter().map(|(name, host)| (format!("{prefix}{name}"), host)));
        }
        Ok(all)
    }

    /// Names and types of [`Optimizer::state`].
    pub fn state_types(&self) -> impl Iterator<Item = (String, TensorType)> {
        let of = |(prefix, arena): (&'static str, &Arena)| {
            let places = arena.layout().places();
            places.map(|(name, _, ty)| (format!("{prefix}{name}"), ty)).collect::<Vec<_>>()
        };
        self.parts().into_iter().flat_map(of)
    }

    /// Goes on from weights and a [`Optimizer::state`], of which it takes what is its own.
    ///
    /// # Errors
    /// [`Error::Config`] naming what is missing or of another shape: they are of another run. Nothing is changed then.
    pub fn restore(&self, gpu: &Gpu, weights: &Values, state: &Values) -> Result<()> {
        let mut all = vec![(&self.weights, own(&self.weights, "", weights)?)];
        for (prefix, arena) in self.parts() {
            all.push((arena, own(arena, prefix, state)?));
        }
        all.into_iter().for_each(|(arena, values)| arena.write(gpu, &values));
        Ok(())
    }

    fn parts(&self) -> Vec<(&'static str, &Arena)> {
        let average = self.average.as_ref().map(|average| (AVERAGE, average));
        [(FIRST, &self.first), (SECOND, &self.second), ("", &self.counters)].into_iter().chain(average).collect()
    }
}

/// The tensors of an arena, found under a prefix.
fn own(arena: &Arena, prefix: &str, values: &Values) -> Result<Values> {
    let find = |(name, _, ty): (&str, usize, TensorType)| {
        let full = format!("{prefix}{name}");
        match values.get(&full) {
            Some(host) if host.ty() == ty => Ok((name.to_owned(), host.clone())),
            Some(host) => Err(Error::Config(format!("`{full}` is {} in the checkpoint; this run has {ty}", host.ty()))),
            None => Err(Error::Config(format!("the checkpoint has no `{full}`: it is none of this run"))),
        }
    };
    arena.layout().places().map(find).collect()
}

/// The nodes of an update.
fn graph(options: &OptimizerOptions, groups: &Groups, beside: &Layout) -> Graph {
    let mut g = Graph::new();
    let OptimizerOptions { betas, epsilon, clip, .. } = *options;
    let elements = groups.elements();
    let arena = |g: &mut Graph, name: &str| g.input(name, TensorType::f32([elements]));
    let [x, gradient, m, v] = ["weights", "gradients", "first", "second"].map(|name| arena(&mut g, name));
    let group = g.input("group", TensorType::new([elements / BLOCK], DType::U32));
    let rates = g.input("rates", TensorType::f32([groups.count(), 2]));
    let inverse_scale = g.input("inverse_scale", TensorType::f32([1]));
    let counters = g.input(COUNTERS, TensorType::f32([STATE]));
    let parts = square_sums(&mut g, gradient);
    let control = control(&mut g, Control { max_norm: clip, betas }, parts, inverse_scale, counters);
    let x = AdamW { betas, epsilon }.append(&mut g, optim::Update { x, gradient, m, v, group, rates, control });
    if options.average.is_some() {
        let (shadow, rate) = (arena(&mut g, "average"), g.input("average_rate", TensorType::f32([1])));
        average(&mut g, shadow, x, rate);
    }
    let mut report = vec![control];
    report.extend(beside.places().map(|(name, _, ty)| g.input(name, ty)));
    let report = concat(&mut g, &report);
    g.output("report", report);
    g
}
