//! A rewrite for inference on codes: where a quantizer reads the pixels of normalized pictures, its codes come out of the table that these
//! come from. The codes are the same, bit by bit, and no floats are written.

use super::fold::constants;
use super::rebuild::{Rebuild, prune};
use super::{Graph, Node, Origin, Var};
use crate::kernels::normalize::{Normalize, ROWS};
use crate::kernels::quantize::Quantize;
use std::any::Any;
use std::sync::Arc;

/// The same graph with tables of codes, for quantizers whose states do not depend on what is `trainable`.
pub(super) fn look_up(graph: &Graph, trainable: &dyn Fn(&str) -> bool) -> Graph {
    let constant = constants(graph, trainable);
    let is_constant = |v: &Var| constant.contains(&graph.root(*v));
    let mut rebuild = Rebuild::new(graph);
    for node in graph.nodes() {
        let Some((quantizer, before)) = quantized_pixels(graph, node).filter(|_| is_constant(&node.inputs[1])) else {
            rebuild.copy(node);
            continue;
        };
        rebuild.to.segment = node.segment;
        let [bytes, sizes, table] = [0, 1, 2].map(|i| rebuild.var(before.inputs[i]));
        let state = rebuild.var(node.inputs[1]);
        let of_table = Quantize { inner: ROWS * 3, ..quantizer };
        let table = rebuild.add(&node.scope, Arc::new(of_table), &[table, state])[0];
        let codes = rebuild.add(&node.scope, Arc::new(Normalize), &[bytes, sizes, table])[0];
        let codes = rebuild.to.reshape(codes, graph.shape(node.outputs[0]).dims());
        rebuild.stand_for(node.outputs[0], codes);
    }
    prune(&rebuild.finish())
}

/// A quantizer of one step size, and the node of the pixels that it reads.
fn quantized_pixels<'a>(graph: &'a Graph, node: &Node) -> Option<(Quantize, &'a Node)> {
    let &quantizer = (&*node.op as &dyn Any).downcast_ref::<Quantize>()?;
    let Origin::Node { node: before, .. } = graph.values()[graph.root(node.inputs[0]).0].origin else { return None };
    let before = &graph.nodes()[before];
    (&*before.op as &dyn Any).downcast_ref::<Normalize>()?;
    (graph.shape(node.inputs[1]).rows() == 1).then_some((quantizer, before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::noise;
    use crate::graph::{Values, fuse, interpret};
    use crate::kernels::normalize::normalize;
    use crate::kernels::position::test_sizes;
    use crate::kernels::quantize::{Levels, quantize, quantizer_state};
    use crate::kernels::unary::relu;
    use crate::tensor::{DType, Host, TensorType};

    /// Codes of pictures, and how many nodes of each kind give them, with a step size that is trained or not.
    #[test]
    fn codes_of_pictures_come_out_of_a_table() {
        for (trained, seen, to, expected) in [
            (false, false, DType::F32, [1, 1]),
            (false, false, DType::F16, [1, 1]),
            (false, true, DType::F16, [2, 1]),
            (true, false, DType::F32, [1, 1]),
        ] {
            let mut g = Graph::new();
            let bytes = g.input("bytes", TensorType::new([2, 3, 5, 3], DType::I8));
            let sizes = g.input("sizes", TensorType::new([2, 2], DType::U32));
            let alpha = g.param("alpha", TensorType::f32([1]));
            let table = g.constant(noise([ROWS, 3], 4).cast(to));
            let (pixels, _) = normalize(&mut g, bytes, sizes, table);
            let levels = Levels::new(8, true);
            let state = quantizer_state(&mut g, alpha, None, levels);
            let codes = quantize(&mut g, pixels, state, levels, 90);
            g.output("codes", codes);
            if seen {
                let y = relu(&mut g, pixels);
                g.output("y", y);
            }
            let fused = fuse(&g, &|_| trained);
            let count = |name: &str| fused.nodes().iter().filter(|node| node.op.name() == name).count();
            assert_eq!(["normalize", "quantize"].map(count), expected);
            let values: Vec<i8> = (0..90u8).map(|i| i.wrapping_mul(37) as i8).collect();
            let inputs: Values = [("bytes".to_owned(), Host::i8([2, 3, 5, 3], values)), ("sizes".to_owned(), test_sizes(2, 3, 5))].into();
            let params: Values = [("alpha".to_owned(), Host::f32([1], vec![0.01]))].into();
            let [before, after] = [&g, &fused].map(|g| interpret(g, &inputs, &params)["codes"].clone());
            assert_eq!(before.as_i8(), after.as_i8());
            let folded = crate::graph::fold(&fused, &|_| trained);
            assert_eq!(folded.graph.nodes().iter().any(|node| node.op.name() == "quantize"), trained, "the table is made on the host");
        }
    }
}
