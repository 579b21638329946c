//! The graph of one training step: forward, then, when the host has matched, losses and gradients.
//!
//! | segment | inputs | outputs |
//! | --- | --- | --- |
//! | 0 | the pictures, as [`StepOptions::entry`] says, and `seed` of what is dropped | `logits [layers · B, N, K + 1]`, `boxes [layers · B, N, 4]`, f32; N counts all groups of queries |
//! | 1 | those of [`Criterion::targets`], and `loss_scale` f32 `[1]` | those of [`Criterion::losses`], and `grad.NAME` of every trained parameter, times the loss scale |
//!
//! With a teacher, what [`Teaching`] adds is there too.

use super::criterion::{Criterion, PredictionShape};
use super::teaching::Teaching;
use crate::data::Entry;
use crate::graph::{Graph, Origin, Var};
use crate::kernels::binary;
use crate::kernels::unary::{Function, Unary};
use crate::models::{BatchSize, ModelConfig, for_training};
use crate::nn::{ParamSpec, Precision};
use crate::tensor::{DType, TensorType};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Before the name of a parameter: its gradient.
pub const GRADIENT: &str = "grad.";

/// The input that the loss is multiplied with before it is differentiated, so that gradients in f16 do not vanish.
pub(super) const LOSS_SCALE: &str = "loss_scale";

/// The graph of a step, not yet fused, and what it is about.
#[derive(Clone, Debug)]
pub struct TrainGraph {
    /// Forward, losses and gradients.
    pub graph: Graph,
    /// What the model wants as parameters.
    pub specs: BTreeMap<String, ParamSpec>,
    /// Parameters that have a gradient.
    pub trained: BTreeMap<String, TensorType>,
    /// How predictions lie.
    pub shape: PredictionShape,
}

/// How a step computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOptions {
    /// In what the model computes.
    pub precision: Precision,
    /// Matching and losses.
    pub criterion: Criterion,
    /// The share of elements that are dropped where the model drops.
    pub dropout: f32,
    /// Auxiliary groups of queries, each as many as the object queries.
    pub query_groups: usize,
    /// As what pictures come.
    pub entry: Entry,
}

/// Builds the graph of a step for batches of one size, with a teacher or without. Parameters are trained when `trains` says so of
/// their name and they are no statistics and not the teacher's.
///
/// # Panics
/// As [`detr()`](crate::models::detr()); when student and teacher do not fit.
pub fn train_graph(
    config: &ModelConfig,
    size: BatchSize,
    options: StepOptions,
    teaching: Option<Teaching<'_>>,
    trains: &dyn Fn(&str) -> bool,
) -> TrainGraph {
    let StepOptions { precision, criterion, dropout, query_groups, entry } = options;
    let (net, forward) = for_training(config, (size, entry), precision, dropout, query_groups);
    let (logits, boxes) = (forward.logits[0], forward.boxes[0]);
    let imitating = teaching.map(|teaching| teaching.features(net.taps(), "", config));
    let (mut graph, specs) = net.into_parts();
    let imitated = teaching.map(|teaching| teaching.forward(&mut graph, precision, forward.input));
    let [_, queries, classes] = graph.shape(logits).blc();
    let (layers, groups) = (config.decoder_layers, 1 + query_groups);
    let shape = PredictionShape { layers, images: size.images, groups, queries, classes };
    graph.output("logits", logits);
    graph.output("boxes", boxes);
    graph.next_segment();
    let mut loss = criterion.append(&mut graph, logits, boxes, shape);
    if let (Some(teaching), Some(imitating), Some(imitated)) = (teaching, imitating, imitated) {
        let distance = teaching.loss(&mut graph, &imitating, &imitated);
        loss = binary::add(&mut graph, loss, distance);
    }
    let loss_scale = graph.input(LOSS_SCALE, TensorType::f32([1]));
    let loss = binary::mul(&mut graph, loss, loss_scale);
    let trained = differentiate(&mut graph, loss, |name| specs.get(name).is_some_and(|spec| trains(name) && !spec.buffer));
    TrainGraph { graph, specs, trained, shape }
}

/// Appends the gradients of parameters as outputs, and returns the parameters that have one.
fn differentiate(graph: &mut Graph, loss: Var, trains: impl Fn(&str) -> bool) -> BTreeMap<String, TensorType> {
    let wanted: Vec<(String, Var)> = graph.params().iter().filter(|(name, _)| trains(name)).map(|(n, &v)| (n.clone(), v)).collect();
    let gradients = graph.backward(loss, &wanted.iter().map(|&(_, v)| v).collect::<Vec<_>>());
    let found: Vec<(String, Var)> = wanted.into_iter().zip(gradients).filter_map(|((name, _), g)| Some((name, g?))).collect();
    let shared = shared(graph, found.iter().map(|&(_, v)| v));
    for (name, gradient) in &found {
        let ty = graph.ty(*gradient);
        let own = if shared.contains(&graph.root(*gradient)) { copy(graph, *gradient) } else { *gradient };
        assert_eq!(ty.dtype, DType::F32, "the gradient of `{name}`");
        graph.output(&format!("{GRADIENT}{name}"), own);
    }
    found.into_iter().map(|(name, gradient)| (name, graph.ty(gradient))).collect()
}

/// The gradients that cannot lie in the arena of gradients themselves: those that belong to several parameters, those that no
/// node computes, and those that a node reads, because it may write to the arena as well.
fn shared(graph: &Graph, gradients: impl Iterator<Item = Var>) -> HashSet<Var> {
    let mut uses: HashMap<Var, usize> = HashMap::new();
    for gradient in gradients {
        let root = graph.root(gradient);
        let is_computed = matches!(graph.values()[root.0].origin, Origin::Node { .. });
        *uses.entry(root).or_default() += if is_computed { 1 } else { 2 };
    }
    for read in graph.nodes().iter().flat_map(|node| &node.inputs) {
        if let Some(uses) = uses.get_mut(&graph.root(*read)) {
            *uses += 1;
        }
    }
    uses.into_iter().filter(|&(_, uses)| uses > 1).map(|(root, _)| root).collect()
}

/// A node that copies.
fn copy(graph: &mut Graph, x: Var) -> Var {
    graph.apply(Unary { function: Function::Identity, to: graph.ty(x).dtype }, &[x])
}
