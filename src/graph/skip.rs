//! A rewrite for networks on codes: where a product of codes adds what other codes stand for, a skip connection, it reads these codes, a byte
//! each, and makes the floats itself. The node that made them goes where nothing else reads them. Results are the same, bit by bit.
//!
//! It runs behind [`super::requantize`]: a kernel that has no room for one state more gives codes rather than that it reads some.

use super::rebuild::{Rebuild, prune, source};
use super::{Graph, Node, Op, Var};
use crate::kernels::integer::{self, Arithmetic};
use crate::kernels::quantize::Dequantize;
use std::sync::Arc;

/// A product of codes that adds codes.
struct Skip {
    op: Arc<dyn Op>,
    /// Index of the floats among the product's inputs, in whose place are to be codes and their state.
    at: usize,
    codes: Var,
    state: Var,
}

/// The same graph with fewer nodes.
pub(super) fn skip(graph: &Graph) -> Graph {
    let mut rebuild = Rebuild::new(graph);
    for node in graph.nodes() {
        match Skip::of(graph, node) {
            None => rebuild.copy(node),
            Some(skip) => skip.build(&mut rebuild, node),
        }
    }
    // Floats are still made where they were, maybe without readers.
    prune(&rebuild.finish())
}

impl Skip {
    /// A product whose residual is floats of codes of one step size, made as the kernel would.
    fn of(graph: &Graph, node: &Node) -> Option<Self> {
        let arithmetic = integer::arithmetic_of(&*node.op).filter(|arithmetic| !arithmetic.residual_codes)?;
        let [.., Some(at)] = arithmetic.epilogue.indices(Arithmetic::FIRST) else { return None };
        let (residual, root) = (graph.shape(node.inputs[at]), graph.root(node.inputs[at]));
        let (before, _, dequantize) = source::<Dequantize>(graph, root)?;
        let before = &graph.nodes()[before];
        let &[codes, state] = &before.inputs[..] else { return None };
        let is_whole = graph.shape(root).len() == residual.len() && before.segment == node.segment;
        let suits = is_whole && dequantize.to == arithmetic.to && graph.shape(state).rows() == 1 && residual.last().is_multiple_of(4);
        let with_codes = Arithmetic { residual_codes: true, ..arithmetic };
        let op = suits.then(|| integer::with_arithmetic(&*node.op, with_codes))??;
        Some(Self { op, at, codes, state })
    }

    fn build(self, rebuild: &mut Rebuild<'_>, node: &Node) {
        let mut inputs = rebuild.inputs(node);
        let [codes, state] = [self.codes, self.state].map(|var| rebuild.var(var));
        let shape = rebuild.from.shape(node.inputs[self.at]);
        let codes = rebuild.to.reshape(codes, shape.dims());
        inputs.splice(self.at..=self.at, [codes, state]);
        rebuild.replace(node, self.op, &inputs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::noise;
    use crate::graph::{Values, fuse, interpret};
    use crate::kernels::binary::add;
    use crate::kernels::conv::Window;
    use crate::kernels::integer::Codes;
    use crate::kernels::quantize::{Levels, dequantize, quantize, quantizer_state};
    use crate::kernels::unary::{cast, relu};
    use crate::tensor::{DType, Host, TensorType};

    /// A block: a product of x, to which the values of other codes are added, and maybe a quantizer behind.
    #[derive(Clone, Copy, Debug)]
    struct Block {
        /// Extent of the window of a padded convolution.
        side: usize,
        channels: usize,
        to: DType,
        /// Step sizes of the codes that are added, all the same.
        steps: usize,
        /// Type of their values before they are cast to `to`.
        values: DType,
        quantized: bool,
        /// What else is an output.
        seen: &'static str,
    }

    const BLOCK: Block = Block { side: 1, channels: 8, to: DType::F16, steps: 1, values: DType::F16, quantized: true, seen: "" };

    fn codes(g: &mut Graph, x: Var, alpha: f32, steps: usize, inner: usize) -> Codes {
        let levels = Levels::new(4, true);
        let alpha = g.constant(Host::f32([steps], vec![alpha; steps]));
        let state = quantizer_state(g, alpha, None, levels);
        Codes { codes: quantize(g, x, state, levels, inner), state, bits: 4 }
    }

    impl Block {
        fn graph(self) -> Graph {
            let (mut g, n) = (Graph::new(), self.channels);
            let (x, skip) = (g.input("x", TensorType::f32([1, 5, 3, 4])), g.input("skip", TensorType::f32([15, n])));
            let w = g.constant(noise([n, self.side, self.side, 4], 3));
            let w = codes(&mut g, w, 0.13, n, self.side * self.side * 4);
            let x = codes(&mut g, x, 0.17, 1, 1);
            let window = Window { padding: self.side / 2, ..Window::default() };
            let y = integer::conv(&mut g, x, w, None, window, self.to);
            let skip = codes(&mut g, skip, 0.11, self.steps, n / self.steps);
            let values = dequantize(&mut g, skip.codes, skip.state, n / self.steps, self.values);
            let added = if self.values == self.to { values } else { cast(&mut g, values, self.to) };
            // The codes have other extents than the sum.
            let added = g.reshape(added, [1, 5, 3, n]);
            let sum = add(&mut g, y, added);
            let sum = relu(&mut g, sum);
            let y = if self.quantized { codes(&mut g, sum, 0.07, 1, 1).codes } else { sum };
            g.output("y", y);
            for (name, var) in [("values", values), ("sum", sum)].into_iter().filter(|&(name, _)| name == self.seen) {
                g.output(name, var);
            }
            g
        }
    }

    /// How many products add codes, and how many nodes make floats of codes.
    fn counts(g: &Graph) -> [usize; 2] {
        let adds_codes = |node: &&Node| integer::arithmetic_of(&*node.op).is_some_and(|arithmetic| arithmetic.residual_codes);
        [g.nodes().iter().filter(adds_codes).count(), g.nodes().iter().filter(|node| node.op.name() == "dequantize").count()]
    }

    #[test]
    fn a_product_adds_codes_where_its_kernel_has_room_and_the_bits_stay() {
        let f32 = Block { to: DType::F32, values: DType::F32, ..BLOCK };
        let two_steps = Block { steps: 2, ..BLOCK };
        for (block, expected) in [
            (BLOCK, [1, 0]),
            (f32, [1, 0]),
            (Block { quantized: false, ..BLOCK }, [1, 0]),
            // Padding is one tensor more.
            (Block { side: 3, quantized: false, ..f32 }, [1, 0]),
            (Block { side: 3, ..BLOCK }, [0, 1]),
            (Block { seen: "sum", ..BLOCK }, [0, 1]),
            (Block { seen: "values", ..BLOCK }, [1, 1]),
            (two_steps, [0, 1]),
            (Block { values: DType::F32, ..BLOCK }, [0, 1]),
            (Block { channels: 6, quantized: false, ..BLOCK }, [0, 1]),
        ] {
            let fused = fuse(&block.graph(), &|_| false);
            assert_eq!(counts(&fused), expected, "{block:?}");
            let quantizers = fused.nodes().iter().filter(|node| node.op.name() == "quantize").count();
            assert_eq!(quantizers, 3, "those of x, w and the codes that are added: {block:?}");
            let inputs = [("x", vec![1, 5, 3, 4]), ("skip", vec![15, block.channels])];
            let inputs: Values = inputs.into_iter().zip(5..).map(|((name, shape), seed)| (name.to_owned(), noise(shape, seed))).collect();
            // Of two step sizes, which are the same, it adds floats.
            let floats = fuse(&Block { steps: 2, ..block }.graph(), &|_| false);
            let [before, after] = [&floats, &fused].map(|g| interpret(g, &inputs, &Values::new()));
            assert_eq!(before.len(), after.len(), "{block:?}");
            for (name, host) in &before {
                assert_eq!(after[name].as_bytes(), host.as_bytes(), "{name}: {block:?}");
            }
        }
    }
}
