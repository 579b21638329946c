//! Copying a graph while changing it: what every rewrite is made of.

use super::fold::constants;
use super::{Graph, Node, Op, Origin, Var};
use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A graph on its way into another one. Inputs are taken over at once, in their order; parameters, constants and views when
/// something asks for them; nodes one by one, as the rewrite decides.
pub(super) struct Rebuild<'a> {
    pub(super) from: &'a Graph,
    pub(super) to: Graph,
    map: HashMap<Var, Var>,
}

impl<'a> Rebuild<'a> {
    pub(super) fn new(from: &'a Graph) -> Self {
        let (mut to, mut map) = (Graph::new(), HashMap::new());
        for (name, var) in from.inputs() {
            map.insert(var, to.input(name, from.ty(var)));
        }
        Self { from, to, map }
    }

    /// Lets a value of the new graph stand for one of the old.
    pub(super) fn stand_for(&mut self, old: Var, new: Var) {
        self.map.insert(old, new);
    }

    /// The value of the new graph that stands for one of the old.
    ///
    /// # Panics
    /// When the node that computes it has not been taken over.
    pub(super) fn var(&mut self, old: Var) -> Var {
        if let Some(&new) = self.map.get(&old) {
            return new;
        }
        let value = &self.from.values()[old.0];
        let new = match &value.origin {
            Origin::Param(name) => self.to.param(name, value.ty),
            Origin::Constant(host) => self.to.constant((**host).clone()),
            Origin::View { of, first } => {
                let of = self.var(*of);
                self.to.part(of, *first, value.ty.shape.dims())
            }
            Origin::Input(_) | Origin::Node { .. } => panic!("value {} was left behind", old.0),
        };
        self.map.insert(old, new);
        new
    }

    /// The values that stand for a node's inputs.
    pub(super) fn inputs(&mut self, node: &Node) -> Vec<Var> {
        node.inputs.iter().map(|&v| self.var(v)).collect()
    }

    /// Adds a node under a scope.
    pub(super) fn add(&mut self, scope: &str, op: Arc<dyn Op>, inputs: &[Var]) -> Vec<Var> {
        self.to.scope = vec![scope.to_owned()];
        let outputs = self.to.apply_all(op, inputs);
        self.to.scope.clear();
        outputs
    }

    /// Takes a node over as it is.
    pub(super) fn copy(&mut self, node: &Node) {
        let inputs = self.inputs(node);
        self.replace(node, node.op.clone(), &inputs);
    }

    /// Adds a node whose results stand for those of another one.
    pub(super) fn replace(&mut self, node: &Node, op: Arc<dyn Op>, inputs: &[Var]) {
        self.to.segment = node.segment;
        let outputs = self.add(&node.scope, op, inputs);
        self.map.extend(node.outputs.iter().copied().zip(outputs));
    }

    /// The new graph, its outputs named as the old one's.
    pub(super) fn finish(self) -> Graph {
        self.finish_without(&HashSet::new())
    }

    /// The new graph without some of the old one's outputs.
    pub(super) fn finish_without(mut self, outputs: &HashSet<String>) -> Graph {
        for (name, &var) in self.from.outputs().iter().filter(|(name, _)| !outputs.contains(*name)) {
            let var = self.var(var);
            self.to.output(name, var);
        }
        self.to
    }
}

/// A node's op, if it is such a one.
pub(super) fn is<T: Op>(node: &Node) -> Option<&T> {
    (&*node.op as &dyn Any).downcast_ref()
}

/// The node that gives a value, under any shape.
pub(super) fn maker(graph: &Graph, var: Var) -> Option<usize> {
    match graph.values()[graph.root(var).0].origin {
        Origin::Node { node, .. } => Some(node),
        _ => None,
    }
}

/// The node of such an op that gives a value, under any shape, and as which of its outputs.
pub(super) fn source<T: Op>(graph: &Graph, var: Var) -> Option<(usize, usize, &T)> {
    let Origin::Node { node, output } = graph.values()[graph.root(var).0].origin else { return None };
    Some((node, output, is(&graph.nodes()[node])?))
}

/// Whether a value exists before a node has run.
pub(super) fn exists_before(graph: &Graph, node: usize, var: Var) -> bool {
    maker(graph, var).is_none_or(|maker| maker < node)
}

/// The graph with all nodes in front that depend on parameters alone: their results exist wherever a rewrite wants them.
pub(super) fn constants_first(graph: &Graph, trainable: &dyn Fn(&str) -> bool) -> Graph {
    let constant = constants(graph, trainable);
    let (first, rest): (Vec<&Node>, Vec<&Node>) = graph.nodes().iter().partition(|node| node.outputs.iter().all(|v| constant.contains(v)));
    let mut rebuild = Rebuild::new(graph);
    for node in first {
        rebuild.copy(&Node { segment: 0, ..node.clone() });
    }
    rest.into_iter().for_each(|node| rebuild.copy(node));
    rebuild.finish()
}

/// The graph without nodes whose results nobody reads.
pub(super) fn prune(graph: &Graph) -> Graph {
    let mut needed: Vec<bool> = vec![false; graph.nodes().len()];
    let need = |needed: &mut Vec<bool>, var: Var| {
        if let Origin::Node { node, .. } = graph.values()[graph.root(var).0].origin {
            needed[node] = true;
        }
    };
    graph.outputs().values().for_each(|&v| need(&mut needed, v));
    for (i, node) in graph.nodes().iter().enumerate().rev() {
        if needed[i] {
            node.inputs.iter().for_each(|&v| need(&mut needed, v));
        }
    }
    let mut rebuild = Rebuild::new(graph);
    for (node, _) in graph.nodes().iter().zip(needed).filter(|(_, needed)| *needed) {
        rebuild.copy(node);
    }
    rebuild.finish()
}
