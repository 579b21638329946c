//! A rewrite for inference on codes: the three ops of attention become one, where nothing else reads what is between them and the device
//! has a kernel for it that is faster. In training backward reads the maps, so that they stay.
//!
//! Codes are the same, bit by bit: see [`IntegerAttention`].

use super::pad::only_before;
use super::rebuild::{Rebuild, is, prune};
use super::requantize::readers;
use super::{Graph, Node, Var};
use crate::gpu::Capabilities;
use crate::kernels::coded::{Coded, Producer};
use crate::kernels::concat::Concat;
use crate::kernels::head_codes::{IntegerMix, IntegerScores};
use crate::kernels::integer_attention::IntegerAttention;
use std::collections::HashMap;
use std::sync::Arc;

/// Attention with its operands in the graph as it was.
struct Attention {
    op: IntegerAttention,
    /// Queries, keys and values.
    operands: [Var; 3],
    /// The states of the quantizers of queries, keys, map and values.
    states: [Var; 4],
    mask: Option<Var>,
    /// The state of the result's quantizer.
    state: Option<Var>,
}

/// The same graph with fewer nodes.
pub(super) fn attend(graph: &Graph, device: &Capabilities) -> Graph {
    let readers = readers(graph);
    let found = |node: &Node| attention(graph, &readers, node).filter(|attention| attention.pays(graph, device));
    let mut rebuild = Rebuild::new(graph);
    for node in graph.nodes() {
        match found(node) {
            None => rebuild.copy(node),
            Some(attention) => {
                let y = attention.build(&mut rebuild, node);
                rebuild.stand_for(node.outputs[0], y);
            }
        }
    }
    // Scores and softmaxes still stand where they were, without readers.
    prune(&rebuild.finish())
}

impl Attention {
    fn pays(&self, graph: &Graph, device: &Capabilities) -> bool {
        let operands = self.operands.map(|v| graph.ty(v));
        self.op.pays(&operands, device)
    }

    fn build(&self, rebuild: &mut Rebuild<'_>, node: &Node) -> Var {
        rebuild.to.segment = node.segment;
        let states = self.states.map(|state| rebuild.var(state));
        let states = rebuild.add(&node.scope, Arc::new(Concat), &states)[0];
        let [operands, behind] = [self.operands.to_vec(), self.mask.into_iter().chain(self.state).collect()];
        let [operands, behind] = [operands, behind].map(|vars: Vec<Var>| vars.into_iter().map(|v| rebuild.var(v)).collect::<Vec<_>>());
        rebuild.add(&node.scope, Arc::new(self.op), &[operands, vec![states], behind].concat())[0]
    }
}

/// The attention that a mix ends, where the scores and the softmax before it give nothing but its map.
fn attention(graph: &Graph, readers: &HashMap<Var, usize>, node: &Node) -> Option<Attention> {
    let mix = is::<IntegerMix>(node)?;
    let (_, softmax) = only_before(graph, readers, node.inputs[0])?;
    let Coded { of: Producer::Softmax(_), quantizers, of_sum: 0, keep: false } = is(softmax)? else { return None };
    let &[quantizer] = &quantizers[..] else { return None };
    let (_, before) = only_before(graph, readers, softmax.inputs[0])?;
    let scores = is::<IntegerScores>(before).filter(|scores| scores.prior.is_none() && scores.to == mix.to)?;
    let map_state = *softmax.inputs.last()?;
    let ([_, heads, queries, columns], groups) = (graph.shape(node.inputs[0]).bhwc(), graph.shape(map_state).rows());
    let is_alike = [before.segment, softmax.segment] == [node.segment; 2] && groups == heads && quantizer.inner == queries * columns;
    let op = IntegerAttention { heads: mix.heads, scale: scores.scale, map: quantizer.levels(), to: mix.to, codes: mix.codes };
    is_alike.then(|| Attention {
        op,
        operands: [before.inputs[0], before.inputs[1], node.inputs[1]],
        states: [before.inputs[2], before.inputs[3], map_state, node.inputs[3]],
        mask: (softmax.inputs.len() > 2).then(|| softmax.inputs[1]),
        state: node.inputs.get(4).copied(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::gpu::Tier;
    use crate::graph::pad::tests::{attention, tokens};
    use crate::graph::{Values, fuse, fuse_for, interpret};

    /// A device with matrices of bytes, and workgroups as large as have been seen there.
    pub(in crate::graph) const BYTES: Capabilities = Capabilities {
        f16: true,
        matrix: true,
        byte_matrix: true,
        workgroup_memory: 48 << 10,
        invocations: 1024,
        tier: Tier::Matrix,
        ..Capabilities::WEBGPU
    };

    fn count(g: &Graph, op: &str) -> usize {
        g.nodes().iter().filter(|node| node.op.name() == op).count()
    }

    #[test]
    fn attention_between_whose_ops_nobody_looks_is_one_op_with_the_same_bits() {
        for (sizes, seen, device, joined) in [
            ([17, 70, 64], None, BYTES, 1),
            ([16, 160, 64], None, BYTES, 1),
            ([17, 70, 64], None, Capabilities::WEBGPU, 0),
            ([17, 60, 64], None, BYTES, 0),
            ([17, 2100, 64], None, BYTES, 0),
            ([17, 70, 60], None, BYTES, 0),
            ([17, 70, 64], Some("scores"), BYTES, 0),
            ([17, 70, 64], Some("map"), BYTES, 0),
            ([17, 70, 64], Some("codes"), BYTES, 0),
        ] {
            let g = attention(sizes, seen);
            let found = fuse_for(&g, &device);
            assert_eq!(count(&found, "integer_attention"), joined, "{sizes:?} {seen:?}");
            assert_eq!(count(&found, "integer_scores"), 1 - joined, "{sizes:?} {seen:?}");
            let [before, after] = [&fuse(&g, &|_| false), &found].map(|g| interpret(g, &tokens(sizes), &Values::new()));
            assert_eq!(before["y"].as_bytes(), after["y"].as_bytes(), "{sizes:?} {seen:?}");
        }
    }
}
