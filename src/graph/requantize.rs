//! A rewrite for networks on codes: a quantizer behind a product of codes becomes part of the product, which then writes codes
//! and, where something else reads them too (a skip connection, a backward), floats as well. The codes are the same, bit by bit.
//!
//! The product runs where it stood. The quantizer's state must exist there: it is a parameter, or its node is moved before the
//! product, which is possible when that reads parameters and inputs alone.

use super::rebuild::Rebuild;
use super::{Graph, Node, Op, Origin, Var};
use crate::kernels::integer::{self, Arithmetic, Requantize};
use crate::kernels::quantize::{Levels, Quantize};
use crate::tensor::TensorType;
use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A product and the quantizer that it takes over.
struct Absorption {
    /// The product with the quantizer's work.
    op: Arc<dyn Op>,
    /// The quantizer's node.
    quantizer: usize,
    /// Whether the product still has the floats as a result.
    keep: bool,
    /// The quantizer's state, and its node when it has to move.
    state: Var,
    moved: Option<usize>,
}

/// The same graph with fewer nodes.
pub(super) fn requantize(graph: &Graph) -> Graph {
    let absorptions = absorptions(graph);
    let mut done: HashSet<usize> = absorptions.values().map(|a| a.quantizer).collect();
    let mut rebuild = Rebuild::new(graph);
    for (index, node) in graph.nodes().iter().enumerate() {
        if done.contains(&index) {
            continue;
        }
        let Some(absorption) = absorptions.get(&index) else {
            rebuild.copy(node);
            continue;
        };
        if let Some(state) = absorption.moved.filter(|&state| done.insert(state)) {
            rebuild.copy(&graph.nodes()[state]);
        }
        absorption.apply(&mut rebuild, node);
    }
    rebuild.finish()
}

impl Absorption {
    fn apply(&self, rebuild: &mut Rebuild<'_>, node: &Node) {
        rebuild.to.segment = node.segment;
        let mut inputs = rebuild.inputs(node);
        inputs.push(rebuild.var(self.state));
        let outputs = rebuild.add(&node.scope, self.op.clone(), &inputs);
        if self.keep {
            rebuild.stand_for(node.outputs[0], outputs[0]);
        }
        let codes = rebuild.from.nodes()[self.quantizer].outputs[0];
        let shape = rebuild.from.shape(codes);
        let new = rebuild.to.reshape(outputs[outputs.len() - 1], shape.dims());
        rebuild.stand_for(codes, new);
    }
}

/// Which products take over which quantizers: each at most its first.
fn absorptions(graph: &Graph) -> HashMap<usize, Absorption> {
    let readers = readers(graph);
    let mut found = HashMap::new();
    for (index, node) in graph.nodes().iter().enumerate() {
        let Some(&Quantize { bits, signed, .. }) = (&*node.op as &dyn Any).downcast_ref() else { continue };
        let floats = graph.root(node.inputs[0]);
        let Origin::Node { node: product, output: 0 } = graph.values()[floats.0].origin else { continue };
        if found.contains_key(&product) {
            continue;
        }
        let levels = Levels { bits, signed };
        if let Some(absorption) = absorption(graph, product, index, levels, readers[&floats] > 1) {
            found.insert(product, absorption);
        }
    }
    found
}

/// How a product takes over a quantizer, if it can.
fn absorption(graph: &Graph, product: usize, quantizer: usize, levels: Levels, keep: bool) -> Option<Absorption> {
    let (node, behind) = (&graph.nodes()[product], &graph.nodes()[quantizer]);
    let arithmetic = integer::arithmetic_of(&*node.op).filter(|a| a.requantize.is_none())?;
    let state = behind.inputs[1];
    let per_tensor = graph.ty(state) == TensorType::f32([1, 4]) && graph.shape(node.outputs[0]).last().is_multiple_of(4);
    if !per_tensor || node.segment != behind.segment {
        return None;
    }
    let moved = match graph.values()[graph.root(state).0].origin {
        Origin::Node { node: of_state, .. } if of_state > product => {
            // What it reads exists before any node has run.
            let is_given = |v: &Var| !matches!(graph.values()[graph.root(*v).0].origin, Origin::Node { .. });
            let of_state_node = &graph.nodes()[of_state];
            if of_state_node.segment != node.segment || !of_state_node.inputs.iter().all(is_given) {
                return None;
            }
            Some(of_state)
        }
        _ => None,
    };
    let op = integer::with_arithmetic(&*node.op, Arithmetic { requantize: Some(Requantize { levels, keep }), ..arithmetic })?;
    Some(Absorption { op, quantizer, keep, state, moved })
}

/// How often each value is read, under any shape, by nodes or as an output of the graph.
pub(super) fn readers(graph: &Graph) -> HashMap<Var, usize> {
    let mut readers = HashMap::new();
    for &var in graph.nodes().iter().flat_map(|node| &node.inputs).chain(graph.outputs().values()) {
        *readers.entry(graph.root(var)).or_default() += 1;
    }
    readers
}
