//! A rewrite for networks whose skip connections are codes: the largest of what codes stand for is what the largest code stands for.
//! So the codes are pooled, a byte each, and floats made of the few that are left. Results are the same, bit by bit: step sizes are
//! above zero, and rounding keeps the order.
//!
//! It runs before [`super::recode`]: quantizers behind the pool then find codes before them.

use super::rebuild::{Rebuild, is, prune, source};
use super::requantize::readers;
use super::{Graph, Node, Var};
use crate::kernels::pool::{CodePool, MaxPool};
use crate::kernels::quantize::Dequantize;
use std::collections::HashMap;
use std::sync::Arc;

/// The same graph with pools of codes.
pub(super) fn pool(graph: &Graph) -> Graph {
    let readers = readers(graph);
    let mut rebuild = Rebuild::new(graph);
    for node in graph.nodes() {
        match dequantizer(graph, &readers, node) {
            None => rebuild.copy(node),
            Some(before) => pool_codes(&mut rebuild, node, before),
        }
    }
    // The floats in front of the pool are still made, without readers.
    prune(&rebuild.finish())
}

/// The node that makes a pool's input from codes of one step size, where nothing else reads that: a pool's backward would.
fn dequantizer<'a>(graph: &'a Graph, readers: &HashMap<Var, usize>, node: &Node) -> Option<&'a Node> {
    is::<MaxPool>(node)?;
    let (x, root) = (graph.shape(node.inputs[0]), graph.root(node.inputs[0]));
    let before = &graph.nodes()[source::<Dequantize>(graph, root)?.0];
    let is_whole = graph.shape(root).len() == x.len() && before.segment == node.segment;
    let one_step = graph.shape(before.inputs[1]).rows() == 1;
    (is_whole && one_step && CodePool::suits(x) && readers.get(&root) == Some(&1)).then_some(before)
}

fn pool_codes(rebuild: &mut Rebuild<'_>, node: &Node, before: &Node) {
    let of = *is::<MaxPool>(node).expect("it was found");
    rebuild.to.segment = node.segment;
    let [codes, state] = [before.inputs[0], before.inputs[1]].map(|var| rebuild.var(var));
    // Floats may have been read under another shape.
    let shape = rebuild.from.shape(node.inputs[0]);
    let codes = rebuild.to.reshape(codes, shape.dims());
    let codes = rebuild.add(&node.scope, Arc::new(CodePool { of }), &[codes])[0];
    let y = rebuild.add(&before.scope, before.op.clone(), &[codes, state])[0];
    rebuild.stand_for(node.outputs[0], y);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::noise;
    use crate::graph::{Values, fuse, interpret};
    use crate::kernels::pool::max_pool;
    use crate::kernels::quantize::{Levels, dequantize, quantize, quantizer_state};
    use crate::kernels::reduce::total;
    use crate::tensor::{DType, Host, TensorType};

    /// Codes, a pool of what they stand for, and two quantizers behind it.
    #[derive(Clone, Copy, Debug)]
    struct Stem {
        channels: usize,
        to: DType,
        /// Step sizes of the codes, all the same.
        steps: usize,
        /// What else is an output.
        seen: &'static str,
    }

    const STEM: Stem = Stem { channels: 8, to: DType::F32, steps: 1, seen: "" };

    impl Stem {
        fn graph(self) -> Graph {
            let mut g = Graph::new();
            let x = g.input("x", TensorType::f32([2 * 7 * 5, self.channels]));
            let state = |g: &mut Graph, alpha: f32, steps: usize, levels: Levels| {
                let alpha = g.constant(Host::f32([steps], vec![alpha; steps]));
                let zp = g.constant(Host::f32([steps], vec![3.0; steps]));
                quantizer_state(g, alpha, Some(zp), levels)
            };
            let levels = Levels::new(8, false);
            let first = state(&mut g, 0.0071, self.steps, levels);
            let inner = self.channels / self.steps;
            let codes = quantize(&mut g, x, first, levels, inner);
            let values = dequantize(&mut g, codes, first, inner, self.to);
            // The codes have other extents than the image.
            let image = g.reshape(values, [2, 7, 5, self.channels]);
            let pooled = max_pool(&mut g, image, 3, 2, 1);
            for (i, alpha) in [0.09, 0.13].into_iter().enumerate() {
                let levels = Levels::new(4, i == 0);
                let state = state(&mut g, alpha, 1, levels);
                let codes = quantize(&mut g, pooled, state, levels, 1);
                g.output(&format!("codes {i}"), codes);
            }
            for (name, var) in [("values", values), ("pooled", pooled)].into_iter().filter(|&(name, _)| name == self.seen) {
                g.output(name, var);
            }
            g
        }
    }

    fn counts<const N: usize>(g: &Graph, ops: [&str; N]) -> [usize; N] {
        ops.map(|op| g.nodes().iter().filter(|node| node.op.name() == op).count())
    }

    #[test]
    fn a_pool_of_what_codes_stand_for_pools_the_codes_and_the_bits_stay() {
        let ops = ["code_pool", "dequantize", "recode"];
        let all = [
            (STEM, [1, 0, 2]),
            (Stem { seen: "pooled", ..STEM }, [1, 1, 2]),
            (Stem { seen: "values", ..STEM }, [0, 1, 0]),
            (Stem { steps: 2, ..STEM }, [0, 1, 0]),
            (Stem { channels: 6, ..STEM }, [0, 1, 0]),
        ];
        for (stem, expected) in all.into_iter().flat_map(|(stem, n)| [(stem, n), (Stem { to: DType::F16, ..stem }, n)]) {
            let graph = stem.graph();
            let fused = fuse(&graph, &|_| false);
            assert_eq!(counts(&fused, ops), expected, "{stem:?}: {fused}");
            let x = noise([2 * 7 * 5, stem.channels], 5);
            let inputs: Values = [("x".to_owned(), x)].into();
            let [before, after] = [&graph, &fused].map(|g| interpret(g, &inputs, &Values::new()));
            assert_eq!(before.len(), after.len(), "{stem:?}");
            for (name, host) in &before {
                assert_eq!(after[name].as_bytes(), host.as_bytes(), "{name}: {stem:?}");
            }
        }
    }

    #[test]
    fn a_pool_with_a_backward_keeps_its_floats() {
        let mut g = Graph::new();
        let (x, alpha) = (g.input("x", TensorType::f32([1, 6, 6, 4])), g.param("alpha", TensorType::f32([1])));
        let levels = Levels::new(8, true);
        let state = quantizer_state(&mut g, alpha, None, levels);
        let codes = quantize(&mut g, x, state, levels, 1);
        let values = dequantize(&mut g, codes, state, 1, DType::F32);
        let y = max_pool(&mut g, values, 3, 2, 1);
        let loss = total(&mut g, y);
        let d_alpha = g.backward(loss, &[alpha])[0].expect("a gradient");
        g.output("d_alpha", d_alpha);
        assert_eq!(counts(&fuse(&g, &|_| true), ["code_pool", "max_pool_backward"]), [0, 1]);
    }
}
