//! A rewrite for networks on codes: a quantizer behind a product of codes, a sum, a norm or a softmax becomes part of it, which then
//! writes codes and, where something else reads them too (a skip connection, a backward), floats as well. The codes are the same, bit
//! by bit.
//!
//! The producer runs where it stood. The quantizer's state must exist there: it is a parameter, or its node is moved before the
//! producer, which is possible when that reads parameters and inputs alone.

use super::rebuild::Rebuild;
use super::{Graph, Node, Op, Origin, Var};
use crate::kernels::coded::{Producer, coded};
use crate::kernels::head_codes::IntegerMix;
use crate::kernels::integer::{self, Arithmetic, Requantize};
use crate::kernels::quantize::Quantize;
use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// A quantizer that can become part of what is before it.
struct Behind {
    op: Quantize,
    /// Its node.
    node: usize,
    state: Var,
    /// The node of its state, when that has to move.
    moved: Option<usize>,
}

/// A producer and the quantizers that it takes over.
struct Absorption {
    /// The producer with the quantizers' work.
    op: Arc<dyn Op>,
    quantizers: Vec<Behind>,
    /// Whether the producer still has the floats as a result.
    keep: bool,
}

/// The same graph with fewer nodes.
pub(super) fn requantize(graph: &Graph) -> Graph {
    let absorptions = absorptions(graph);
    let mut done: HashSet<usize> = absorptions.values().flat_map(|a| &a.quantizers).map(|q| q.node).collect();
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
    fn apply(&self, rebuild: &mut Rebuild<'_>, node: &Node) {
        rebuild.to.segment = node.segment;
        let mut inputs = rebuild.inputs(node);
        inputs.extend(self.quantizers.iter().map(|q| rebuild.var(q.state)));
        let outputs = rebuild.add(&node.scope, self.op.clone(), &inputs);
        if self.keep {
            rebuild.stand_for(node.outputs[0], outputs[0]);
        }
        for (quantizer, &output) in self.quantizers.iter().zip(&outputs[usize::from(self.keep)..]) {
            let codes = rebuild.from.nodes()[quantizer.node].outputs[0];
            let shape = rebuild.from.shape(codes);
            let new = rebuild.to.reshape(output, shape.dims());
            rebuild.stand_for(codes, new);
        }
    }
}

/// Which producers take over which quantizers.
fn absorptions(graph: &Graph) -> HashMap<usize, Absorption> {
    let readers = readers(graph);
    let mut behind: BTreeMap<usize, Vec<Behind>> = BTreeMap::new();
    for (index, node) in graph.nodes().iter().enumerate() {
        let Some(&op) = (&*node.op as &dyn Any).downcast_ref::<Quantize>() else { continue };
        let Origin::Node { node: producer, output: 0 } = graph.values()[graph.root(node.inputs[0]).0].origin else { continue };
        if let Some(moved) = state_before(graph, producer, index) {
            behind.entry(producer).or_default().push(Behind { op, node: index, state: node.inputs[1], moved });
        }
    }
    let absorb = |(producer, quantizers): (usize, Vec<Behind>)| {
        let count = readers[&graph.nodes()[producer].outputs[0]];
        let node = &graph.nodes()[producer];
        let taken = behind_codes(graph, node, &quantizers, count).or_else(|| behind_floats(graph, node, &quantizers, count));
        let (op, taken, keep) = taken.or_else(|| behind_mix(graph, node, &quantizers, count))?;
        let quantizers = quantizers.into_iter().filter(|q| taken.contains(&q.node)).collect();
        Some((producer, Absorption { op, quantizers, keep }))
    };
    behind.into_iter().filter_map(absorb).collect()
}

/// An op with the work of quantizers, their nodes, and whether the floats are left.
type Taken = (Arc<dyn Op>, Vec<usize>, bool);

/// A product of codes takes over its first quantizer.
fn behind_codes(graph: &Graph, node: &Node, quantizers: &[Behind], readers: usize) -> Option<Taken> {
    let arithmetic = integer::arithmetic_of(&*node.op).filter(|a| a.requantize.is_none())?;
    let channels = graph.shape(node.outputs[0]).last();
    let suits = |q: &&Behind| {
        let groups = graph.shape(q.state).rows();
        channels.is_multiple_of(4 * groups) && (groups == 1 || q.op.inner == channels / groups)
    };
    let first = quantizers.iter().find(suits)?;
    let keep = readers > 1;
    let requantize = Requantize { levels: first.op.levels(), groups: graph.shape(first.state).rows(), keep };
    let op = integer::with_arithmetic(&*node.op, Arithmetic { requantize: Some(requantize), ..arithmetic })?;
    Some((op, vec![first.node], keep))
}

/// A producer of floats takes over as many quantizers as its kernels can bind.
fn behind_floats(graph: &Graph, node: &Node, quantizers: &[Behind], readers: usize) -> Option<Taken> {
    let producer = Producer::of(&*node.op)?;
    let inputs = graph.types(&node.inputs);
    let suits = |q: &&Behind| producer.suits(&inputs, q.op, graph.ty(q.state));
    let taken: Vec<&Behind> = quantizers.iter().filter(suits).take(producer.most_quantizers()).collect();
    let keep = readers > taken.len();
    let op = (!taken.is_empty()).then(|| coded(producer, taken.iter().map(|q| q.op).collect(), keep))?;
    Some((op, taken.iter().map(|q| q.node).collect(), keep))
}

/// A mix of heads gives codes in place of floats, where nothing else reads these.
fn behind_mix(graph: &Graph, node: &Node, quantizers: &[Behind], readers: usize) -> Option<Taken> {
    let mix: &IntegerMix = (&*node.op as &dyn Any).downcast_ref()?;
    let [only] = quantizers else { return None };
    let suits = readers == 1 && graph.shape(only.state).rows() == 1;
    let mix = mix.with_codes(graph.shape(node.outputs[0]).last(), only.op.levels()).filter(|_| suits)?;
    Some((Arc::new(mix), vec![only.node], false))
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
