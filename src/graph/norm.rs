//! A rewrite for inference on codes: a linear layer and the norm behind it become one op, where nothing else reads what is between them and
//! the device has a kernel for it that is faster. In training backward reads the layer's floats, so that they stay.
//!
//! Codes and floats are the same, bit by bit: see [`IntegerLinearNorm`].

use super::fold::constants;
use super::pad::only_before;
use super::rebuild::{Rebuild, is, prune};
use super::requantize::readers;
use super::{Graph, Node, Var};
use crate::gpu::Capabilities;
use crate::kernels::coded::{Coded, Producer};
use crate::kernels::concat::Concat;
use crate::kernels::integer::{Arithmetic, IntegerLinear, IntegerLinearNorm};
use crate::tensor::DType;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A layer and its norm with their operands in the graph as it was.
struct Normed {
    op: IntegerLinearNorm,
    x: Var,
    w: Var,
    /// Scale, shift and the norm's weight and bias, and the states of its quantizers.
    constants: [Var; 5],
    residual: Var,
    addend: Option<Var>,
}

/// The same graph with fewer nodes.
pub(super) fn norm(graph: &Graph, device: &Capabilities) -> Graph {
    let (readers, constant) = (readers(graph), constants(graph, &|_| false));
    let found = |node: &Node| normed(graph, &readers, &constant, node).filter(|n| n.op.pays(graph.ty(n.x), graph.ty(n.w), device));
    let mut rebuild = Rebuild::new(graph);
    for node in graph.nodes() {
        match found(node) {
            None => rebuild.copy(node),
            Some(normed) => normed.build(&mut rebuild, node),
        }
    }
    // Layers still stand where they were, without readers.
    prune(&rebuild.finish())
}

impl Normed {
    fn build(self, rebuild: &mut Rebuild<'_>, node: &Node) {
        rebuild.to.segment = node.segment;
        let fours = |var: Var| {
            let (var, elements) = (rebuild.var(var), rebuild.from.shape(var).len());
            rebuild.to.reshape(var, [elements / 4, 4])
        };
        let constants = self.constants.map(fours);
        let constants = rebuild.add(&node.scope, Arc::new(Concat), &constants)[0];
        let [x, w, residual] = [self.x, self.w, self.residual].map(|var| rebuild.var(var));
        let addend = self.addend.map(|var| rebuild.var(var));
        let inputs: Vec<Var> = [x, w, constants, residual].into_iter().chain(addend).collect();
        let outputs = rebuild.add(&node.scope, Arc::new(self.op), &inputs);
        node.outputs.iter().zip(outputs).for_each(|(&old, new)| rebuild.stand_for(old, new));
    }
}

/// A norm with quantizers, where the layer before it gives floats to nothing else, and what their channels have in common is constant.
fn normed(graph: &Graph, readers: &HashMap<Var, usize>, constant: &HashSet<Var>, node: &Node) -> Option<Normed> {
    let norm = is::<Coded>(node).filter(|norm| matches!(norm.of, Producer::LayerNorm(_)))?;
    let (_, before) = only_before(graph, readers, node.inputs[0])?;
    let linear = is::<IntegerLinear>(before).filter(|linear| linear.products == 1 && before.segment == node.segment)?;
    let arithmetic = Arithmetic { requantize: None, ..linear.arithmetic };
    let [Some(scale), Some(shift), Some(residual)] = arithmetic.epilogue.indices(Arithmetic::FIRST) else { return None };
    let [_, weight, bias, behind @ ..] = &node.inputs[..] else { return None };
    let (addend, states) = behind.split_at(usize::from(norm.of_sum > 0));
    let &[states] = states else { return None };
    let constants = [before.inputs[scale], before.inputs[shift], *weight, *bias, states];
    let is_joined = |&var: &Var| constant.contains(&graph.root(var)) && graph.ty(var).dtype == DType::F32;
    let of_floats = linear.arithmetic.requantize.is_none() && !arithmetic.residual_codes;
    let is_alike = of_floats && constants.iter().all(is_joined);
    is_alike.then(|| Normed {
        op: IntegerLinearNorm { arithmetic, norm: norm.clone() },
        x: before.inputs[0],
        w: before.inputs[1],
        constants,
        residual: before.inputs[residual],
        addend: addend.first().copied(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::attend::tests::BYTES;
    use crate::graph::check::noise;
    use crate::graph::{Values, fuse, fuse_for, interpret};
    use crate::kernels::binary::add;
    use crate::kernels::integer::{self, Codes};
    use crate::kernels::layer_norm::layer_norm;
    use crate::kernels::quantize::{Levels, dequantize, quantize, quantizer_state};
    use crate::tensor::{Host, TensorType};

    fn codes(g: &mut Graph, x: Var, alpha: f32) -> Codes {
        let (levels, rows) = (Levels::new(4, true), g.shape(x).rows());
        let count = if alpha > 0.0 { 1 } else { rows };
        let alpha = g.constant(Host::f32([count], vec![alpha.abs(); count]));
        let state = quantizer_state(g, alpha, None, levels);
        let inner = if count == 1 { 1 } else { g.shape(x).last() };
        Codes { codes: quantize(g, x, state, levels, inner), state, bits: 4 }
    }

    /// A layer of K to N channels with a skip connection and a norm, whose codes are the result, with what else is to be seen of it.
    fn layer_and_norm([k, n]: [usize; 2], seen: &str) -> Graph {
        let mut g = Graph::new();
        let (x, skip) = (g.input("x", TensorType::f32([3, k])), g.input("skip", TensorType::f32([3, n])));
        let w = g.param("w", TensorType::f32([n, k]));
        let [bias, weight, shift] = ["bias", "weight", "shift"].map(|name| match seen == name {
            true => g.input(name, TensorType::f32([n])),
            false => g.param(name, TensorType::f32([n])),
        });
        let (x, w) = (codes(&mut g, x, 0.2), codes(&mut g, w, -0.1));
        let y = integer::linear(&mut g, x, w, Some(bias), DType::F32);
        let skip = if seen == "codes" {
            let skip = codes(&mut g, skip, 0.2);
            dequantize(&mut g, skip.codes, skip.state, 1, DType::F32)
        } else {
            skip
        };
        let sum = add(&mut g, y, skip);
        let y = layer_norm(&mut g, sum, weight, shift, 1e-5);
        let codes = codes(&mut g, y, 0.3).codes;
        g.output("codes", codes);
        for (name, var) in [("layer", sum), ("norm", y)].into_iter().filter(|&(name, _)| seen == name) {
            g.output(name, var);
        }
        g
    }

    fn count(g: &Graph, op: &str) -> usize {
        g.nodes().iter().filter(|node| node.op.name() == op).count()
    }

    #[test]
    fn a_layer_and_its_norm_between_which_nobody_looks_are_one_op_with_the_same_bits() {
        for (extents, seen, device, joined) in [
            ([64, 256], "", BYTES, 1),
            ([64, 256], "norm", BYTES, 1),
            ([64, 256], "", Capabilities::WEBGPU, 0),
            ([60, 256], "", BYTES, 0),
            ([64, 128], "", BYTES, 0),
            ([MUCH, 256], "", BYTES, 0),
            ([64, 256], "layer", BYTES, 0),
            ([64, 256], "bias", BYTES, 0),
            ([64, 256], "shift", BYTES, 0),
            // The skip connection is codes.
            ([64, 256], "codes", BYTES, 0),
        ] {
            let g = layer_and_norm(extents, seen);
            let found = fuse_for(&g, &device);
            assert_eq!(count(&found, "integer_linear_norm"), joined, "{extents:?} {seen}");
            assert_eq!(count(&found, "layer_norm_codes"), 1 - joined, "{extents:?} {seen}");
            let [k, n] = extents;
            let tensors =
                [("x", vec![3, k]), ("skip", vec![3, n]), ("w", vec![n, k]), ("bias", vec![n]), ("weight", vec![n]), ("shift", vec![n])];
            let values: Values =
                tensors.iter().enumerate().map(|(i, (name, shape))| ((*name).to_owned(), noise(shape, i as u64))).collect();
            let [before, after] = [&fuse(&g, &|_| false), &found].map(|g| interpret(g, &values, &values));
            assert!(
                before.len() == after.len() && before.iter().all(|(name, host)| after[name].as_bytes() == host.as_bytes()),
                "{extents:?} {seen}"
            );
        }
    }

    /// More terms than the kernel is faster for.
    const MUCH: usize = 4096;
}
