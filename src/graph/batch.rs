//! A rewrite for networks on codes: linear layers of equal shapes whose inputs are neighbouring parts of one tensor, the codes of several
//! quantizers, become one op, as queries, keys and values of an attention do, or those of all decoder layers that the memory is read by.
//! Each is so small that a launch of its own takes longer than what it does.
//!
//! Weights and all that belongs to them are joined by the CPU, so they must be constant.

use super::fold::constants;
use super::rebuild::Rebuild;
use super::{Graph, Node, PART_BYTES, Var};
use crate::kernels::concat::concat;
use crate::kernels::integer::IntegerLinear;
use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Layers that run together, in the order of their inputs.
struct Batch {
    nodes: Vec<usize>,
    /// What their inputs are parts of, and where the first begins.
    of: Var,
    first: usize,
}

/// The same graph with fewer nodes.
pub(super) fn batch(graph: &Graph, trainable: &dyn Fn(&str) -> bool) -> Graph {
    let batches = batches(graph, &constants(graph, trainable));
    // All inputs exist where the earliest stood: constants are in front, and their parts appear together.
    let at: HashMap<usize, &Batch> = batches.iter().filter_map(|batch| Some((*batch.nodes.iter().min()?, batch))).collect();
    let gone: HashSet<usize> = batches.iter().flat_map(|batch| &batch.nodes).copied().collect();
    let mut rebuild = Rebuild::new(graph);
    for (index, node) in graph.nodes().iter().enumerate() {
        match at.get(&index) {
            Some(batch) => batch.apply(&mut rebuild, node.segment),
            None if gone.contains(&index) => {}
            None => rebuild.copy(node),
        }
    }
    rebuild.finish()
}

impl Batch {
    fn apply(&self, rebuild: &mut Rebuild<'_>, segment: usize) {
        let graph = rebuild.from;
        let nodes: Vec<&Node> = self.nodes.iter().map(|&i| &graph.nodes()[i]).collect();
        rebuild.to.segment = segment;
        let Some(op) = linear(nodes[0]) else { return };
        let (count, x) = (nodes.len(), graph.shape(nodes[0].inputs[0]));
        let whole = rebuild.var(self.of);
        let mut inputs = vec![rebuild.to.part(whole, self.first, [count, x.rows(), x.last()])];
        for i in 1..nodes[0].inputs.len() {
            let each: Vec<Var> = nodes.iter().map(|node| rebuild.var(node.inputs[i])).collect();
            inputs.push(concat(&mut rebuild.to, &each));
        }
        let op = Arc::new(IntegerLinear { products: count, ..*op });
        let outputs = rebuild.add(&nodes[0].scope, op, &inputs);
        for (i, node) in nodes.iter().enumerate() {
            for (&old, &all) in node.outputs.iter().zip(&outputs) {
                let shape = graph.shape(old);
                let part = rebuild.to.part(all, i * shape.len(), shape.dims());
                rebuild.stand_for(old, part);
            }
        }
    }
}

/// A node as one layer on codes without a residual.
fn linear(node: &Node) -> Option<&IntegerLinear> {
    let op: &IntegerLinear = (&*node.op as &dyn Any).downcast_ref()?;
    (op.products == 1 && !op.arithmetic.epilogue.residual).then_some(op)
}

/// All runs of layers that can be one op.
fn batches(graph: &Graph, constant: &HashSet<Var>) -> Vec<Batch> {
    let is_constant = |var: &Var| constant.contains(&graph.root(*var));
    let mut of_whole: BTreeMap<Var, BTreeMap<usize, usize>> = BTreeMap::new();
    for (index, node) in graph.nodes().iter().enumerate().filter(|(_, node)| linear(node).is_some()) {
        let (whole, x) = (graph.root(node.inputs[0]), graph.shape(node.inputs[0]));
        let is_part = x.len() < graph.shape(whole).len();
        let in_parts =
            node.outputs.iter().all(|&y| graph.ty(y).bytes().is_multiple_of(PART_BYTES) && graph.shape(y).last().is_multiple_of(4));
        // Layers that are constant themselves cost nothing.
        if is_part && !is_constant(&whole) && in_parts && node.inputs[1..].iter().all(is_constant) {
            // Of two layers on the same codes one runs alone.
            of_whole.entry(whole).or_default().entry(graph.first(node.inputs[0])).or_insert(index);
        }
    }
    of_whole.into_iter().flat_map(|(whole, layers)| runs(graph, whole, layers)).collect()
}

/// Of the layers on parts of a tensor, by where these begin, those that lie behind one another and are alike.
fn runs(graph: &Graph, of: Var, layers: BTreeMap<usize, usize>) -> Vec<Batch> {
    let mut runs: Vec<Batch> = Vec::new();
    for (first, index) in layers {
        let continues = |run: &Batch| {
            let [a, b] = [run.nodes[0], index].map(|i| &graph.nodes()[i]);
            let follows = first == run.first + run.nodes.len() * graph.shape(a.inputs[0]).len();
            let same = linear(a).zip(linear(b)).is_some_and(|(a, b)| a.arithmetic == b.arithmetic);
            follows && same && graph.types(&a.inputs) == graph.types(&b.inputs) && a.segment == b.segment
        };
        match runs.last_mut().filter(|run| continues(run)) {
            Some(run) => run.nodes.push(index),
            None => runs.push(Batch { nodes: vec![index], of, first }),
        }
    }
    runs.retain(|run| run.nodes.len() > 1);
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::noise;
    use crate::graph::{Values, fold, fuse, interpret};
    use crate::kernels::integer::{self, Codes};
    use crate::kernels::layer_norm::layer_norm;
    use crate::kernels::quantize::{Levels, quantize, quantizer_state};
    use crate::tensor::{DType, Host, TensorType};

    fn param(g: &mut Graph, values: &mut Values, host: Host) -> Var {
        let name = format!("{:02}", values.len());
        let var = g.param(&name, host.ty());
        values.insert(name, host);
        var
    }

    /// A norm with linear layers of so many columns behind it, each with a quantizer of its own.
    fn layers(columns: &[usize], rows: usize) -> (Graph, Values) {
        let (mut g, mut values) = (Graph::new(), Values::new());
        let x = g.input("x", TensorType::f32([1, rows, 16]));
        let [weight, bias] = [1, 2].map(|seed| param(&mut g, &mut values, noise([16], seed)));
        let x = layer_norm(&mut g, x, weight, bias, 1e-5);
        for (i, &n) in columns.iter().enumerate() {
            let mut codes = |x: Option<Var>, rows: usize| {
                let of_weight = Host::f32([rows, 16], noise([rows, 16], i as u64).to_f32().into_owned());
                let x = x.unwrap_or_else(|| param(&mut g, &mut values, of_weight));
                let alpha = param(&mut g, &mut values, Host::f32([rows], vec![0.1 + 0.01 * i as f32; rows]));
                let levels = Levels::new(4, true);
                let state = quantizer_state(&mut g, alpha, None, levels);
                Codes { codes: quantize(&mut g, x, state, levels, 16), state, bits: 4 }
            };
            let (x, w) = (codes(Some(x), 1), codes(None, n));
            let y = integer::linear(&mut g, x, w, None, DType::F32);
            g.output(&format!("{i}"), y);
        }
        (g, values)
    }

    /// How many nodes are left to run, and whether the results are the same, bit by bit.
    fn nodes_left(columns: &[usize], rows: usize, trainable: &dyn Fn(&str) -> bool) -> usize {
        let (graph, params) = layers(columns, rows);
        let folded = fold(&graph, trainable);
        let fused = fuse(&graph, trainable);
        let fused = fold(&fused, trainable);
        let inputs = Values::from([("x".to_owned(), noise([1, rows, 16], 9))]);
        let run = |folded: &crate::graph::Folded<'_>| {
            let mut all = folded.evaluate(&params, &|_| true);
            all.extend(params.clone().into_iter().filter(|(name, _)| trainable(name)));
            interpret(&folded.graph, &inputs, &all)
        };
        assert_eq!(run(&folded), run(&fused), "{columns:?} {rows}");
        fused.graph.nodes().len()
    }

    #[test]
    fn layers_on_neighbouring_codes_become_one() {
        assert_eq!(nodes_left(&[8, 8, 8], 32, &|_| false), 2, "a norm, and all layers");
        assert_eq!(nodes_left(&[8; 12], 16, &|_| false), 2);
    }

    #[test]
    fn only_layers_of_one_shape_become_one() {
        assert_eq!(nodes_left(&[8, 8, 12, 12], 32, &|_| false), 3);
        assert_eq!(nodes_left(&[8, 12, 8], 32, &|_| false), 4);
    }

    #[test]
    fn parts_that_cannot_be_bound_stay_apart() {
        // 144 codes each: the norm takes over one quantizer.
        assert_eq!(nodes_left(&[8, 8, 8], 9, &|_| false), 6);
        // 256 codes each, and 96 floats of results.
        assert_eq!(nodes_left(&[6, 6], 16, &|_| false), 3);
    }

    #[test]
    fn layers_that_change_stay_apart() {
        let (graph, _) = layers(&[8, 8], 32);
        let fused = fuse(&graph, &|_| true);
        assert_eq!(fused.nodes().iter().filter(|node| linear(node).is_some()).count(), 2);
    }
}
