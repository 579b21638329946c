//! A rewrite for memory: a product of codes that adds a tensor which nothing reads after it writes its result over that tensor. A skip
//! connection then takes the place of one tensor of floats, not of two. The last step before a plan, since constants, which are known
//! only behind folding, must stay.

use super::memory::{Life, lives};
use super::rebuild::Rebuild;
use super::{Graph, Node, Op, Var};
use crate::kernels::integer;
use std::collections::HashMap;
use std::sync::Arc;

/// The same graph with results in the place of what they add to.
pub(super) fn in_place(graph: &Graph) -> Graph {
    let lives = lives(graph);
    let mut rebuild = Rebuild::new(graph);
    for (index, node) in graph.nodes().iter().enumerate() {
        match over_residual(graph, &lives, index, node) {
            Some(op) => rebuild.copy(&Node { op, ..node.clone() }),
            None => rebuild.copy(node),
        }
    }
    rebuild.finish()
}

/// The op of a node, computed in the place of its residual, if that is scratch which dies here, and so is the result.
fn over_residual(graph: &Graph, lives: &HashMap<Var, Life>, index: usize, node: &Node) -> Option<Arc<dyn Op>> {
    let (op, residual) = integer::over_residual(&*node.op, graph.shape(node.outputs[0]).last())?;
    let life = lives.get(&graph.storage(node.inputs[residual]))?;
    (life.to == index && lives.contains_key(&node.outputs[0])).then_some(op)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::binary;
    use crate::kernels::integer::Codes;
    use crate::kernels::quantize::{Levels, quantize, quantizer_state};
    use crate::kernels::unary;
    use crate::tensor::{DType, TensorType};

    /// `relu(x) + w · codes(x)` and what is left of it in place; the skip connection is read again behind it if `again` says so.
    fn places(again: bool, constant: bool) -> Vec<(usize, usize)> {
        let mut g = Graph::new();
        let x = g.input("x", TensorType::f32([5, 8]));
        let w = g.input("w", TensorType::f32([8, 8]));
        let [one, eight] = [1, 8].map(|n| g.input(&format!("alpha {n}"), TensorType::f32([n])));
        let levels = Levels::new(4, true);
        let codes = |g: &mut Graph, x: Var, alpha: Var, inner: usize| {
            let state = quantizer_state(g, alpha, None, levels);
            Codes { codes: quantize(g, x, state, levels, inner), state, bits: 4 }
        };
        let (x_codes, w_codes) = (codes(&mut g, x, one, 40), codes(&mut g, w, eight, 8));
        let skip = if constant { g.input("skip", TensorType::f32([5, 8])) } else { unary::relu(&mut g, x) };
        let y = integer::linear(&mut g, x_codes, w_codes, None, DType::F32);
        let sum = binary::add(&mut g, y, skip);
        let mut last = unary::sigmoid(&mut g, sum);
        if again {
            last = binary::add(&mut g, last, skip);
        }
        g.output("y", last);
        let placed = in_place(&super::super::fuse(&g));
        placed.nodes().iter().flat_map(|node| node.op.in_place()).collect()
    }

    #[test]
    fn a_skip_connection_that_nothing_reads_again_gives_its_place() {
        assert_eq!(places(false, false), [(6, 0)]);
    }

    #[test]
    fn what_is_read_again_or_comes_from_outside_stays() {
        assert_eq!(places(true, false), []);
        assert_eq!(places(false, true), []);
    }
}
