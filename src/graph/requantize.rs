//! A rewrite for networks on codes: quantizers behind a product of codes, a sum, a norm, a pool, a dropout or a softmax become part of it,
//! which then writes codes and, where something else reads them too (a skip connection, a backward), floats as well. The codes are the
//! same, bit by bit.
//!
//! The producer runs where it stood. The quantizer's state must exist there: it is constant, or its node is moved before the
//! producer, which is possible when that reads parameters and inputs alone. Constant states of several quantizers are joined into one
//! tensor, so that a kernel binds one, and the codes of all are one tensor too, of which the next layers read parts.
//!
//! Behind a norm, quantizers of its sum with something (positions) can become part of it together with the sum.

use super::fold::constants;
use super::rebuild::Rebuild;
use super::{Graph, Node, Op, Origin, PART_BYTES, Var};
use crate::kernels::binary::Binary;
use crate::kernels::coded::{Producer, coded};
use crate::kernels::concat::concat;
use crate::kernels::head_codes::IntegerMix;
use crate::kernels::integer::{self, Arithmetic, Requantize};
use crate::kernels::quantize::Quantize;
use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// A quantizer that can become part of what is before it.
#[derive(Clone, Copy)]
struct Behind {
    op: Quantize,
    /// Its node.
    node: usize,
    state: Var,
    /// The node of its state, when that has to move.
    moved: Option<usize>,
    /// Whether the state is constant.
    constant: bool,
}

/// A sum that can become part of the producer of its first operand.
struct Sum {
    node: usize,
    addend: Var,
    quantizers: Vec<Behind>,
}

/// A producer and the quantizers that it takes over.
struct Absorption {
    /// The producer with the quantizers' work.
    op: Arc<dyn Op>,
    quantizers: Vec<Behind>,
    /// The sum that the last of them are of.
    sum: Option<Sum>,
    /// Whether the producer still has the floats as a result.
    keep: bool,
}

/// The same graph with fewer nodes.
pub(super) fn requantize(graph: &Graph, trainable: &dyn Fn(&str) -> bool) -> Graph {
    let absorptions = Search::new(graph, trainable).absorptions();
    let mut done: HashSet<usize> = absorptions.values().flat_map(Absorption::gone).collect();
    let mut rebuild = Rebuild::new(graph);
    for (index, node) in graph.nodes().iter().enumerate() {
        if done.contains(&index) {
            continue;
        }
        let Some(absorption) = absorptions.get(&index) else {
            rebuild.copy(node);
            continue;
        };
        for state in absorption.quantizers.iter().filter_map(|q| q.moved) {
            if done.insert(state) {
                rebuild.copy(&graph.nodes()[state]);
            }
        }
        absorption.apply(&mut rebuild, node);
    }
    rebuild.finish()
}

impl Absorption {
    /// The nodes that it replaces.
    fn gone(&self) -> impl Iterator<Item = usize> {
        self.quantizers.iter().map(|q| q.node).chain(self.sum.iter().map(|sum| sum.node))
    }

    fn apply(&self, rebuild: &mut Rebuild<'_>, node: &Node) {
        rebuild.to.segment = node.segment;
        let mut inputs = rebuild.inputs(node);
        inputs.extend(self.sum.iter().map(|sum| rebuild.var(sum.addend)));
        inputs.extend(self.states(rebuild));
        let outputs = rebuild.add(&node.scope, self.op.clone(), &inputs);
        if self.keep {
            rebuild.stand_for(node.outputs[0], outputs[0]);
        }
        for (i, quantizer) in self.quantizers.iter().enumerate() {
            let codes = rebuild.from.nodes()[quantizer.node].outputs[0];
            let shape = rebuild.from.shape(codes);
            let part = rebuild.to.part(outputs[usize::from(self.keep)], i * shape.len(), shape.dims());
            rebuild.stand_for(codes, part);
        }
    }

    /// The states of all quantizers: one tensor where they are constant, so that the CPU can join them.
    fn states(&self, rebuild: &mut Rebuild<'_>) -> Vec<Var> {
        let states: Vec<Var> = self.quantizers.iter().map(|q| rebuild.var(q.state)).collect();
        if are_constant(&self.quantizers) { vec![concat(&mut rebuild.to, &states)] } else { states }
    }
}

fn are_constant(quantizers: &[Behind]) -> bool {
    quantizers.iter().all(|q| q.constant)
}

/// An op with the work of quantizers, of which producer's inputs nothing is said, the quantizers, their sum, and whether the floats are left.
type Taken = (Arc<dyn Op>, Vec<Behind>, Option<Sum>, bool);

/// What is known of a graph while producers are looked for.
struct Search<'a> {
    graph: &'a Graph,
    readers: HashMap<Var, usize>,
    constant: HashSet<Var>,
}

impl<'a> Search<'a> {
    fn new(graph: &'a Graph, trainable: &dyn Fn(&str) -> bool) -> Self {
        Self { graph, readers: readers(graph), constant: constants(graph, trainable) }
    }

    /// Which producers take over which quantizers.
    fn absorptions(&self) -> HashMap<usize, Absorption> {
        let (nodes, mut sums) = (self.graph.nodes(), self.sums());
        let mut behind: BTreeMap<usize, Vec<Behind>> = BTreeMap::new();
        for (index, node) in nodes.iter().enumerate() {
            let Some(producer) = self.producer(node.inputs.first().copied()) else { continue };
            // An entry without any may get those of a sum.
            behind.entry(producer).or_default().extend(self.behind(producer, index));
        }
        let absorb = |(producer, quantizers): (usize, Vec<Behind>)| {
            let (node, sum) = (&nodes[producer], sums.remove(&producer));
            let count = self.readers.get(&node.outputs[0]).copied().unwrap_or(0);
            let taken = self.behind_codes(node, &quantizers, count).or_else(|| self.behind_floats(node, &quantizers, sum, count));
            let (op, quantizers, sum, keep) = taken.or_else(|| self.behind_mix(node, &quantizers, count))?;
            Some((producer, Absorption { op, quantizers, sum, keep }))
        };
        let found: HashMap<usize, Absorption> = behind.into_iter().filter_map(absorb).collect();
        // A sum that became part of what is before it takes over nothing itself.
        let gone: HashSet<usize> = found.values().flat_map(Absorption::gone).collect();
        found.into_iter().filter(|(producer, _)| !gone.contains(producer)).collect()
    }

    /// The node whose first output a value is, under any shape.
    fn producer(&self, var: Option<Var>) -> Option<usize> {
        match self.graph.values()[self.graph.root(var?).0].origin {
            Origin::Node { node, output: 0 } => Some(node),
            _ => None,
        }
    }

    /// A node as a quantizer that could run together with a node before it.
    fn behind(&self, producer: usize, index: usize) -> Option<Behind> {
        let node = &self.graph.nodes()[index];
        let &op = (&*node.op as &dyn Any).downcast_ref::<Quantize>()?;
        let moved = state_before(self.graph, producer, index)?;
        let state = node.inputs[1];
        let constant = self.constant.contains(&self.graph.root(state));
        Some(Behind { op, node: index, state, moved, constant })
    }

    /// Sums with what a norm gives that are read by nothing but quantizers with constant states, by the norm's node.
    fn sums(&self) -> HashMap<usize, Sum> {
        let sum = |(index, node): (usize, &Node)| {
            let is_sum = (&*node.op as &dyn Any).downcast_ref() == Some(&Binary::ADD);
            let producer = self.producer(node.inputs.first().copied()).filter(|_| is_sum)?;
            let before = &self.graph.nodes()[producer];
            let suits = Producer::of(&*before.op).is_some_and(|producer| producer.suits_sums());
            let exists = match self.graph.values()[self.graph.root(node.inputs[1]).0].origin {
                Origin::Node { node, .. } => node < producer,
                _ => true,
            };
            let is_alike = self.graph.ty(node.inputs[0]) == self.graph.ty(before.outputs[0]) && before.segment == node.segment;
            let is_read = |(_, reader): &(usize, &Node)| reader.inputs.iter().any(|&v| self.graph.root(v) == node.outputs[0]);
            let readers = self.graph.nodes().iter().enumerate().filter(is_read);
            let quantizers: Vec<Behind> = readers.map(|(i, _)| self.behind(producer, i)).collect::<Option<_>>()?;
            let all = !quantizers.is_empty() && self.readers.get(&node.outputs[0]) == Some(&quantizers.len());
            let wanted = suits && exists && is_alike && all && are_constant(&quantizers);
            wanted.then_some((producer, Sum { node: index, addend: node.inputs[1], quantizers }))
        };
        self.graph.nodes().iter().enumerate().filter_map(sum).collect()
    }

    /// Of some quantizers as many as can share a kernel: alike, and with one tensor of states, unless a kernel has room for two.
    fn together(&self, y: Var, quantizers: Vec<Behind>, most: impl Fn(bool) -> usize) -> Vec<Behind> {
        let Some(&first) = quantizers.first() else { return quantizers };
        let one_step = |q: &Behind| self.graph.shape(q.state).rows() == 1;
        let are_parts = self.graph.shape(y).len().is_multiple_of(PART_BYTES) && one_step(&first);
        let mut alike: Vec<Behind> = quantizers.into_iter().filter(|q| q.op.levels() == first.op.levels() && one_step(q)).collect();
        if !are_parts {
            return vec![first];
        }
        let mut constant: Vec<Behind> = alike.iter().filter(|q| q.constant).copied().collect();
        if constant.len() < 2 {
            alike.truncate(most(false));
            return alike;
        }
        constant.truncate(most(true));
        constant
    }

    /// A product of codes takes over quantizers.
    fn behind_codes(&self, node: &Node, quantizers: &[Behind], readers: usize) -> Option<Taken> {
        let arithmetic = integer::arithmetic_of(&*node.op).filter(|a| a.requantize.is_none())?;
        let channels = self.graph.shape(node.outputs[0]).last();
        let suits = |q: &&Behind| {
            let groups = self.graph.shape(q.state).rows();
            channels.is_multiple_of(4 * groups) && (groups == 1 || q.op.inner == channels / groups)
        };
        let suiting: Vec<Behind> = quantizers.iter().filter(suits).copied().collect();
        let taken = self.together(node.outputs[0], suiting, |one_state| 1 + usize::from(one_state));
        let first = taken.first()?;
        let keep = readers > taken.len();
        let (levels, groups) = (first.op.levels(), self.graph.shape(first.state).rows());
        let requantize = Some(Requantize { levels, quantizers: taken.len(), groups, keep, again: None });
        let op = integer::with_arithmetic(&*node.op, Arithmetic { requantize, ..arithmetic })?;
        Some((op, taken, None, keep))
    }

    /// A producer of floats takes over quantizers, and those of a sum together with it.
    fn behind_floats(&self, node: &Node, quantizers: &[Behind], sum: Option<Sum>, readers: usize) -> Option<Taken> {
        let producer = Producer::of(&*node.op)?;
        let inputs = self.graph.types(&node.inputs);
        let suits = |q: &&Behind| producer.suits(&inputs, q.op, self.graph.shape(q.state).rows());
        let suiting: Vec<Behind> = quantizers.iter().filter(suits).copied().collect();
        let mut taken = self.together(node.outputs[0], suiting, |one_state| producer.most_quantizers(one_state));
        let sum = sum.filter(|sum| {
            let all: Vec<Behind> = taken.iter().chain(&sum.quantizers).copied().collect();
            let fit = sum.quantizers.iter().filter(suits).count() == sum.quantizers.len() && are_constant(&all);
            fit && self.together(node.outputs[0], all, |_| usize::MAX).len() == taken.len() + sum.quantizers.len()
        });
        let keep = readers > taken.len() + usize::from(sum.is_some());
        let of_sum = sum.as_ref().map_or(0, |sum| sum.quantizers.len());
        taken.extend(sum.iter().flat_map(|sum| &sum.quantizers));
        let op = (!taken.is_empty()).then(|| coded(producer, taken.iter().map(|q| q.op).collect(), of_sum, keep))?;
        Some((op, taken, sum, keep))
    }

    /// A mix of heads gives codes in place of floats, where nothing else reads these.
    fn behind_mix(&self, node: &Node, quantizers: &[Behind], readers: usize) -> Option<Taken> {
        let mix: &IntegerMix = (&*node.op as &dyn Any).downcast_ref()?;
        let [only] = quantizers else { return None };
        let suits = readers == 1 && self.graph.shape(only.state).rows() == 1;
        let mix = mix.with_codes(self.graph.shape(node.outputs[0]).last(), only.op.levels()).filter(|_| suits)?;
        Some((Arc::new(mix), vec![*only], None, false))
    }
}

/// Whether the state of a quantizer exists before a node, or would if the node in the answer was moved there.
fn state_before(graph: &Graph, before: usize, quantizer: usize) -> Option<Option<usize>> {
    let (node, behind) = (&graph.nodes()[before], &graph.nodes()[quantizer]);
    if node.segment != behind.segment {
        return None;
    }
    match graph.values()[graph.root(behind.inputs[1]).0].origin {
        Origin::Node { node: of_state, .. } if of_state > before => {
            // What it reads exists before any node has run.
            let is_given = |v: &Var| !matches!(graph.values()[graph.root(*v).0].origin, Origin::Node { .. });
            let of_state_node = &graph.nodes()[of_state];
            (of_state_node.segment == node.segment && of_state_node.inputs.iter().all(is_given)).then_some(Some(of_state))
        }
        _ => Some(None),
    }
}

/// How often each value is read, under any shape, by nodes or as an output of the graph.
pub(super) fn readers(graph: &Graph) -> HashMap<Var, usize> {
    let mut readers = HashMap::new();
    for &var in graph.nodes().iter().flat_map(|node| &node.inputs).chain(graph.outputs().values()) {
        *readers.entry(graph.root(var)).or_default() += 1;
    }
    readers
}
