//! The update of all trained parameters: a plan of its own over the arenas, a few launches whatever the model.

use super::criterion::{PredictionShape, TERMS};
use crate::Result;
use crate::gpu::Gpu;
use crate::graph::{Arena, Graph, Layout, Links, Params, Plan, PlanOptions, Scratch, Values, Var};
use crate::kernels::concat::concat;
use crate::kernels::optim::{self, AdamW, BLOCK, CONTROL, Control, STATE, control, square_sums};
use crate::tensor::{Host, TensorType};
use std::sync::Arc;

/// PyTorch's, and DETR's.
const BETAS: [f64; 2] = [0.9, 0.999];
const EPSILON: f64 = 1e-8;

/// Parameters whose names begin so have the second learning rate.
const BACKBONE: &str = "backbone.";

/// Before the names of parameters: their moments, and the optimizer's counters.
const FIRST: &str = "first.";
const SECOND: &str = "second.";
const COUNTERS: &str = "counters";

/// What differs from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Learning rates of the transformer and of the backbone.
    pub rates: [f32; 2],
    /// Decides what is dropped: another in every step.
    pub seed: u32,
}

/// How parameters are updated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rule {
    /// The global norm that gradients are scaled down to.
    pub(super) clip: f32,
    /// AdamW's decay of weights.
    pub(super) weight_decay: f32,
}

/// What is read back behind an update.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// The outputs of the loss nodes.
    pub(super) losses: Values,
    /// Global norm of the gradient before it is clipped; `None` when it is not finite and the step was not done.
    pub(super) grad_norm: Option<f32>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Optimizer {
    plan: Plan,
    rule: Rule,
    losses: Arena,
    first: Arena,
    second: Arena,
    counters: Arena,
}

impl Optimizer {
    /// An optimizer of weights with gradients of the same layout, at rest. It reads the losses of predictions of a shape back
    /// together with its own answer.
    pub(super) fn new(gpu: &Gpu, weights: &Arena, gradients: &Arena, shape: PredictionShape, rule: Rule) -> Result<Self> {
        let layout = weights.layout();
        let [first, second] = [Arena::new(gpu, "first moments", layout)?, Arena::new(gpu, "second moments", layout)?];
        let part = TensorType::f32([shape.layers * shape.images * shape.groups]);
        let losses = Arena::new(gpu, "losses", &Arc::new(Layout::new(TERMS.map(|name| (name.to_owned(), part)))))?;
        let counters = Arena::new(gpu, "counters", &Arc::new(Layout::new([(COUNTERS.to_owned(), TensorType::f32([STATE]))])))?;
        let mut links = losses.links("");
        links.extend(counters.links(""));
        let arenas = [("weights", weights), ("gradients", gradients), ("first", &first), ("second", &second)];
        links.extend(arenas.map(|(name, arena)| (name.to_owned(), arena.whole())));
        let (graph, params) = (graph(layout, part, rule), Params::upload(gpu, &Values::new())?);
        let plan = Plan::compile_linked(gpu, &graph, &params, &links, &mut Scratch::default(), PlanOptions::default())?;
        Ok(Self { plan, rule, losses, first, second, counters })
    }

    /// Where the loss nodes shall write.
    pub(super) fn loss_links(&self) -> Links {
        self.losses.links("")
    }

    /// Updates, and waits for everything submitted so far.
    pub(super) fn update(&self, Update { rates, .. }: Update) -> Result<Found> {
        let decay = self.rule.weight_decay;
        self.plan.write("rates", &Host::f32([2, 2], vec![rates[0], decay, rates[1], decay]));
        self.plan.run()?;
        let report = self.plan.read()?;
        let report = report["report"].to_f32();
        let (losses, control) = report.split_at(report.len() - CONTROL);
        let parts = losses.chunks(losses.len() / TERMS.len());
        let losses = TERMS.into_iter().zip(parts).map(|(name, part)| (name.to_owned(), Host::f32([part.len()], part.to_vec())));
        Ok(Found { losses: losses.collect(), grad_norm: (control[2] != 0.0).then_some(control[0]) })
    }

    /// Everything that an update depends on beside weights and gradients.
    pub(super) fn state(&self, gpu: &Gpu) -> Result<Values> {
        let mut all = Values::new();
        for (prefix, arena) in self.parts() {
            all.extend(arena.read(gpu)?.into_iter().map(|(name, host)| (format!("{prefix}{name}"), host)));
        }
        Ok(all)
    }

    /// Takes the state that [`Optimizer::state`] gave.
    pub(super) fn restore(&self, gpu: &Gpu, state: &Values) {
        for (prefix, arena) in self.parts() {
            let own = state.iter().filter_map(|(name, host)| Some((name.strip_prefix(prefix)?.to_owned(), host.clone())));
            arena.write(gpu, &own.collect());
        }
    }

    fn parts(&self) -> [(&'static str, &Arena); 3] {
        [(FIRST, &self.first), (SECOND, &self.second), ("", &self.counters)]
    }
}

/// The state of an optimizer, by name and type, for weights of a layout.
pub(super) fn state_types(layout: &Layout) -> impl Iterator<Item = (String, TensorType)> + use<'_> {
    let moments = |prefix: &'static str| layout.places().map(move |(name, _, ty)| (format!("{prefix}{name}"), ty));
    moments(FIRST).chain(moments(SECOND)).chain([(COUNTERS.to_owned(), TensorType::f32([STATE]))])
}

/// The nodes of an update.
fn graph(layout: &Layout, part: TensorType, rule: Rule) -> Graph {
    let mut g = Graph::new();
    let arena = TensorType::f32([layout.bytes() / 4]);
    let [x, gradient, m, v] = ["weights", "gradients", "first", "second"].map(|name| g.input(name, arena));
    let rates = g.input("rates", TensorType::f32([2, 2]));
    let counters = g.input(COUNTERS, TensorType::f32([STATE]));
    let group = g.constant(groups(layout));
    let inverse_scale = g.constant(Host::f32([1], vec![1.0]));
    let parts = square_sums(&mut g, gradient);
    let control = control(&mut g, Control { max_norm: Some(rule.clip), betas: BETAS }, parts, inverse_scale, counters);
    let wires = optim::Update { x, gradient, m, v, group, rates, control };
    AdamW { betas: BETAS, epsilon: EPSILON }.append(&mut g, wires);
    let mut report: Vec<Var> = TERMS.map(|name| g.input(name, part)).to_vec();
    report.push(control);
    let report = concat(&mut g, &report);
    g.output("report", report);
    g
}

/// The row of `rates` that each block of an arena obeys.
fn groups(layout: &Layout) -> Host {
    let blocks = layout.bytes() / 4 / BLOCK;
    let mut groups = vec![0; blocks];
    for (name, offset, ty) in layout.places() {
        let first = offset / 4 / BLOCK;
        groups[first..first + ty.shape.len().div_ceil(BLOCK)].fill(u32::from(name.starts_with(BACKBONE)));
    }
    Host::u32([blocks], groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backbone_has_a_group_of_its_own() {
        let ty = |n| TensorType::f32([n]);
        let layout = Layout::new([("backbone.0.a".to_owned(), ty(65)), ("bbox".to_owned(), ty(64)), ("class".to_owned(), ty(1))]);
        assert_eq!(groups(&layout).as_u32(), [1, 1, 0, 0]);
    }
}
