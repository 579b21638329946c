//! A rewrite for attention on codes: a map between its three ops, which nothing else reads, gets padded rows. Of an odd number of keys
//! every row begins at another place of a word, so that maps would be written and read piece by piece; attention's maps are the largest
//! tensors of a detector.
//!
//! No number that counts changes: what is behind a row's keys takes no part in the softmax and in the mix.

use super::rebuild::{Rebuild, is};
use super::requantize::readers;
use super::{Graph, Node, Op, Origin, Var};
use crate::kernels::coded::{Coded, Producer};
use crate::kernels::head_codes::{IntegerMix, IntegerScores, padded};
use crate::kernels::quantize::Quantize;
use crate::kernels::softmax::Softmax;
use std::collections::HashMap;
use std::sync::Arc;

/// The same graph with padded maps.
pub(super) fn pad(graph: &Graph) -> Graph {
    let readers = readers(graph);
    let before = |mix: &Node| of_mix(graph, &readers, mix);
    let padded: HashMap<usize, Arc<dyn Op>> = graph.nodes().iter().filter_map(before).flatten().collect();
    let mut rebuild = Rebuild::new(graph);
    for (index, node) in graph.nodes().iter().enumerate() {
        match padded.get(&index) {
            None => rebuild.copy(node),
            Some(op) => {
                rebuild.to.segment = node.segment;
                let inputs = rebuild.inputs(node);
                let outputs = rebuild.add(&node.scope, op.clone(), &inputs);
                rebuild.stand_for(node.outputs[0], outputs[0]);
            }
        }
    }
    rebuild.finish()
}

/// The scores and the softmax before a mix with what they become, where both give nothing but its map.
fn of_mix(graph: &Graph, readers: &HashMap<Var, usize>, mix: &Node) -> Option<[(usize, Arc<dyn Op>); 2]> {
    is::<IntegerMix>(mix)?;
    let (at_softmax, softmax) = only_before(graph, readers, mix.inputs[0])?;
    let (at_scores, scores) = only_before(graph, readers, softmax.inputs[0])?;
    let scores = *is::<IntegerScores>(scores)?;
    let keys = graph.shape(mix.inputs[0]).last();
    let softmax = with_keys(is::<Coded>(softmax)?, keys)?;
    let is_odd = padded(keys) != keys;
    is_odd.then(|| [(at_scores, Arc::new(IntegerScores { padded: true, ..scores }) as Arc<dyn Op>), (at_softmax, Arc::new(softmax))])
}

/// The softmax of padded rows; none where it is none that gives codes alone.
fn with_keys(coded: &Coded, keys: usize) -> Option<Coded> {
    let Coded { of: Producer::Softmax(Softmax { keys: None }), quantizers, keep: false, .. } = coded else { return None };
    let &[quantizer] = &quantizers[..] else { return None };
    let inner = quantizer.inner.is_multiple_of(keys).then(|| quantizer.inner / keys * padded(keys))?;
    let of = Producer::Softmax(Softmax { keys: Some(keys) });
    Some(Coded { of, quantizers: vec![Quantize { inner, ..quantizer }], of_sum: 0, keep: false })
}

/// The node that computes a value which is read once, and not under another shape.
pub(super) fn only_before<'a>(graph: &'a Graph, readers: &HashMap<Var, usize>, var: Var) -> Option<(usize, &'a Node)> {
    let Origin::Node { node, output: 0 } = graph.values()[var.0].origin else { return None };
    (readers[&var] == 1).then(|| (node, &graph.nodes()[node]))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::graph::check::noise;
    use crate::graph::{Values, fuse, interpret};
    use crate::kernels::head_codes::{self, HeadCodes};
    use crate::kernels::quantize::{Levels, quantize, quantizer_state};
    use crate::kernels::softmax::softmax;
    use crate::tensor::{DType, Host, TensorType};

    const HEADS: usize = 2;

    fn codes(g: &mut Graph, x: Var, signed: bool, inner: usize) -> HeadCodes {
        let levels = Levels::new(8, signed);
        let alpha = g.constant(Host::f32([HEADS], vec![0.01, 0.008]));
        let state = quantizer_state(g, alpha, None, levels);
        HeadCodes { codes: quantize(g, x, state, levels, inner), state }
    }

    /// Attention of two heads on codes of queries, keys and channels, with what else is to be seen of it.
    pub(in crate::graph) fn attention([queries, keys, channels]: [usize; 3], seen: Option<&str>) -> Graph {
        let mut g = Graph::new();
        let tokens = [("q", queries), ("k", keys), ("v", keys)];
        let [q, k, v] = tokens.map(|(name, l)| g.input(name, TensorType::f32([2, l, channels])));
        let [q, k, v] = [q, k, v].map(|x| codes(&mut g, x, true, channels / HEADS));
        let mask = g.constant(Host::u32([2, keys], (0..2 * keys).map(|i| u32::from(i % 7 != 2)).collect()));
        let scores = head_codes::scores(&mut g, q, k, HEADS, DType::F32);
        let map = softmax(&mut g, scores, Some(mask));
        let map_codes = codes(&mut g, map, false, queries * keys);
        let y = head_codes::mix(&mut g, map_codes, v, DType::F32);
        g.output("y", y);
        for (name, var) in
            [("scores", scores), ("map", map), ("codes", map_codes.codes)].into_iter().filter(|&(name, _)| seen == Some(name))
        {
            g.output(name, var);
        }
        g
    }

    /// What [`attention`] reads.
    pub(in crate::graph) fn tokens([queries, keys, channels]: [usize; 3]) -> Values {
        [("q", queries), ("k", keys), ("v", keys)].map(|(name, l)| (name.to_owned(), noise([2, l, channels], l as u64))).into()
    }

    fn is_padded(g: &Graph) -> bool {
        g.nodes().iter().any(|node| is::<IntegerScores>(node).is_some_and(|scores| scores.padded))
    }

    #[test]
    fn a_map_that_nothing_else_sees_is_padded_and_gives_the_same_bits() {
        for (keys, seen, padded) in [
            (7, None, true),
            (33, None, true),
            (16, None, false),
            (7, Some("scores"), false),
            (7, Some("map"), false),
            (7, Some("codes"), false),
        ] {
            let g = attention([5, keys, 8], seen);
            let fused = fuse(&g, &|_| false);
            assert_eq!(is_padded(&fused), padded, "{keys} {seen:?}");
            let inputs = tokens([5, keys, 8]);
            let [before, after] = [&g, &fused].map(|g| interpret(g, &inputs, &Values::new()));
            assert_eq!(before["y"].as_bytes(), after["y"].as_bytes(), "{keys} {seen:?}");
        }
    }
}
