//! A rewrite for training on codes: where a quantizer's backward reads what other codes stand for, it reads these codes. Their values, which
//! take twice the memory and more, need not be kept from the forward to the backward.

use super::rebuild::{Rebuild, is, prune, source};
use super::{Graph, Node};
use crate::kernels::quantize::{Dequantize, QuantizeBackward};
use std::sync::Arc;

/// The same graph with backwards that read codes.
pub(super) fn saved(graph: &Graph) -> Graph {
    let mut rebuild = Rebuild::new(graph);
    for node in graph.nodes() {
        let Some((op, before)) = on_codes(graph, node) else {
            rebuild.copy(node);
            continue;
        };
        let mut inputs = rebuild.inputs(node);
        let [codes, state] = [0, 1].map(|i| rebuild.var(before.inputs[i]));
        inputs[0] = rebuild.to.reshape(codes, graph.shape(node.inputs[0]).dims());
        inputs.push(state);
        rebuild.replace(node, Arc::new(op), &inputs);
    }
    prune(&rebuild.finish())
}

/// The backward that a node would be on codes, and the node that makes floats of them.
fn on_codes<'a>(graph: &'a Graph, node: &Node) -> Option<(QuantizeBackward, &'a Node)> {
    let backward = is::<QuantizeBackward>(node)?;
    let (before, _, dequantize) = source::<Dequantize>(graph, node.inputs[0])?;
    let before = &graph.nodes()[before];
    let (x, groups) = (graph.shape(node.inputs[0]), graph.shape(node.inputs[1]).rows());
    let is_whole = x.len() == graph.shape(before.outputs[0]).len() && graph.shape(before.inputs[1]).rows() == 1;
    let suits = is_whole && backward.suits_codes(x, groups);
    suits.then_some((QuantizeBackward { of_codes: Some(dequantize.to), ..*backward }, before))
}
