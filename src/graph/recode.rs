//! A rewrite for networks whose skip connections are codes: a quantizer that reads what other codes stand for makes its codes from those,
//! without the floats between. The codes are the same, bit by bit.
//!
//! Where such codes are all that a 1 × 1 convolution of few channels reads, it makes them itself while it loads the others ([`while_loading`]).
//!
//! A 1 × 1 convolution in steps reads few pixels: its quantizer makes codes of those alone, as soon as it can, so that the other pixels need not
//! be kept for it.

use super::rebuild::{Rebuild, exists_before, is, prune, source};
use super::requantize::readers;
use super::{Graph, Node};
use crate::kernels::conv::Window;
use crate::kernels::integer::IntegerConv;
use crate::kernels::quantize::{Dequantize, Quantize, Recode};
use std::collections::HashMap;
use std::sync::Arc;

/// Results of a pixel of a convolution that reads each of its inputs a few times at most.
const FEW: usize = 128;

/// A quantizer that makes its codes from others.
struct Found {
    recode: Recode,
    /// The quantizer's node, and the node that gives the floats.
    quantizer: usize,
    dequantizer: usize,
    /// The convolution that reads in steps, if one does.
    conv: Option<usize>,
}

/// The same graph with fewer floats.
pub(super) fn recode(graph: &Graph) -> Graph {
    let found = find(graph);
    let by_quantizer: HashMap<usize, &Found> = found.iter().map(|f| (f.quantizer, f)).collect();
    let mut rebuild = Rebuild::new(graph);
    for (index, node) in graph.nodes().iter().enumerate() {
        if let Some(found) = by_quantizer.get(&index) {
            if !found.is_early(graph) {
                found.add(&mut rebuild);
            }
        } else if found.iter().any(|found| found.conv == Some(index)) {
            copy_without_steps(&mut rebuild, node);
        } else {
            rebuild.copy(node);
        }
        found.iter().filter(|found| found.dequantizer == index && found.is_early(graph)).for_each(|found| found.add(&mut rebuild));
    }
    prune(&rebuild.finish())
}

impl Found {
    /// Whether its codes are made where the floats were: it reads little of what may then be dropped.
    fn is_early(&self, graph: &Graph) -> bool {
        self.conv.is_some() && exists_before(graph, self.dequantizer, graph.nodes()[self.quantizer].inputs[1])
    }

    fn add(&self, rebuild: &mut Rebuild<'_>) {
        let [quantizer, dequantizer] = [self.quantizer, self.dequantizer].map(|i| &rebuild.from.nodes()[i]);
        rebuild.to.segment = quantizer.segment;
        let inputs = [dequantizer.inputs[0], dequantizer.inputs[1], quantizer.inputs[1]].map(|v| rebuild.var(v));
        // Floats may have been read under another shape.
        let shape = rebuild.from.shape(quantizer.outputs[0]);
        let codes = rebuild.to.reshape(inputs[0], shape.dims());
        let y = rebuild.add(&quantizer.scope, Arc::new(self.recode), &[codes, inputs[1], inputs[2]])[0];
        rebuild.stand_for(quantizer.outputs[0], y);
    }
}

/// A convolution whose steps were taken by what gives its codes.
fn copy_without_steps(rebuild: &mut Rebuild<'_>, node: &Node) {
    let conv = *is::<IntegerConv>(node).expect("it was found");
    let inputs = rebuild.inputs(node);
    rebuild.replace(node, Arc::new(IntegerConv { window: Window { stride: 1, ..conv.window }, ..conv }), &inputs);
}

fn find(graph: &Graph) -> Vec<Found> {
    let readers = readers(graph);
    let find = |(index, node): (usize, &Node)| {
        let quantize = is::<Quantize>(node)?;
        let (dequantizer, _, dequantize) = source::<Dequantize>(graph, node.inputs[0])?;
        let before = &graph.nodes()[dequantizer];
        let one_step = [before.inputs[1], node.inputs[1]].iter().all(|&state| graph.shape(state).rows() == 1);
        let codes = node.outputs[0];
        let only = || graph.nodes().iter().position(|reader| reader.inputs.first() == Some(&codes));
        let reader = (readers.get(&codes) == Some(&1)).then(only).flatten();
        let in_steps = reader.and_then(|i| Some((i, steps_of(graph, &graph.nodes()[i])?)));
        let recode = Recode { through: dequantize.to, levels: quantize.levels(), step: in_steps.map_or(1, |(_, stride)| stride) };
        let wanted = one_step && recode.suits(graph.shape(codes)) && before.segment == node.segment;
        wanted.then_some(Found { recode, quantizer: index, dequantizer, conv: in_steps.map(|(conv, _)| conv) })
    };
    graph.nodes().iter().enumerate().filter_map(find).collect()
}

/// The step of a 1 × 1 convolution on codes that leaves pixels out.
fn steps_of(graph: &Graph, node: &Node) -> Option<usize> {
    let Window { stride, padding, .. } = is::<IntegerConv>(node)?.window;
    (stride > 1 && padding == 0 && is_point(graph, node)).then_some(stride)
}

/// Whether a convolution's window is one pixel.
fn is_point(graph: &Graph, conv: &Node) -> bool {
    matches!(graph.shape(conv.inputs[1]).bhwc(), [_, 1, 1, _])
}

/// The same graph without codes that are made for one convolution and can be made by it: one of so few results that it reads its input once
/// or a few times. It runs before [`super::second`], for what reads its input more often: there the product before makes these codes, once.
pub(super) fn while_loading(graph: &Graph) -> Graph {
    let readers = readers(graph);
    let mut rebuild = Rebuild::new(graph);
    for node in graph.nodes() {
        let Some((op, recode)) = recoding(graph, node).filter(|_| readers.get(&graph.root(node.inputs[0])) == Some(&1)) else {
            rebuild.copy(node);
            continue;
        };
        let mut inputs = rebuild.inputs(node);
        let [codes, state] = [0, 1].map(|i| rebuild.var(recode.inputs[i]));
        inputs[0] = rebuild.to.reshape(codes, graph.shape(node.inputs[0]).dims());
        inputs.push(state);
        rebuild.replace(node, Arc::new(op), &inputs);
    }
    prune(&rebuild.finish())
}

/// The convolution that a node would be if it made its codes itself, and the node that makes them.
fn recoding<'a>(graph: &'a Graph, node: &Node) -> Option<(IntegerConv, &'a Node)> {
    let conv = is::<IntegerConv>(node)?;
    let (before, _, recode) = source::<Recode>(graph, node.inputs[0]).filter(|(_, _, recode)| recode.step == 1)?;
    let before = &graph.nodes()[before];
    let ([n, ..], channels) = (graph.shape(node.inputs[1]).bhwc(), graph.shape(node.inputs[0]).last());
    let is_same = graph.root(before.inputs[2]) == graph.root(node.inputs[2]) && recode.through == conv.arithmetic.to;
    let suits = n <= FEW && conv.can_recode(channels, n) && is_point(graph, node) && is_same && before.segment == node.segment;
    suits.then_some((IntegerConv { recodes: Some(recode.levels), ..*conv }, before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::noise;
    use crate::graph::{Values, Var, fuse, interpret};
    use crate::kernels::binary::add;
    use crate::kernels::integer::{self, Codes};
    use crate::kernels::quantize::{Levels, dequantize, quantize, quantizer_state};
    use crate::kernels::reduce;
    use crate::kernels::unary::relu;
    use crate::tensor::{DType, Host, TensorType};

    /// A network under construction, whose step sizes are parameters.
    struct Net {
        g: Graph,
        params: Values,
        to: DType,
    }

    impl Net {
        fn param(&mut self, host: Host) -> Var {
            let name = format!("{:02}", self.params.len());
            let var = self.g.param(&name, host.ty());
            self.params.insert(name, host);
            var
        }

        fn codes(&mut self, x: Var, bits: u32, alpha: f32) -> Codes {
            let levels = Levels::new(bits, bits == 8);
            let alpha = self.param(Host::f32([1], vec![alpha]));
            let state = quantizer_state(&mut self.g, alpha, None, levels);
            Codes { codes: quantize(&mut self.g, x, state, levels, 1), state, bits }
        }

        /// What a block gives, kept as codes of 8 bits: their values.
        fn kept(&mut self, x: Var) -> Var {
            let Codes { codes, state, .. } = self.codes(x, 8, 0.03);
            dequantize(&mut self.g, codes, state, 1, self.to)
        }

        fn conv(&mut self, x: Var, n: usize, stride: usize) -> Var {
            let x = self.codes(x, 4, 0.2);
            let (shape, levels) = ([n, 1, 1, self.g.shape(x.codes).last()], Levels::new(4, true));
            let (w, alpha) = (self.param(noise(shape, self.params.len() as u64)), self.param(Host::f32([n], vec![0.12; n])));
            let state = quantizer_state(&mut self.g, alpha, None, levels);
            let w = Codes { codes: quantize(&mut self.g, w, state, levels, shape[3]), state, bits: 4 };
            integer::conv(&mut self.g, x, w, None, Window { stride, ..Window::default() }, self.to)
        }

        /// Two blocks of `wide` channels that are `narrow` inside, a downsampling convolution beside a last one, and the sum of all.
        fn blocks(to: DType, [narrow, wide]: [usize; 2]) -> Self {
            let mut net = Self { g: Graph::new(), params: Values::new(), to };
            let x = net.g.input("x", TensorType::new([2, 8, 8, 16], to));
            let x = net.conv(x, wide, 1);
            let mut trunk = net.kept(x);
            for _ in 0..2 {
                let y = net.conv(trunk, narrow, 1);
                let y = relu(&mut net.g, y);
                let y = net.conv(y, wide, 1);
                let sum = add(&mut net.g, y, trunk);
                let y = relu(&mut net.g, sum);
                trunk = net.kept(y);
            }
            for (name, n, stride) in [("y", narrow, 1), ("down", 36, 2)] {
                let y = net.conv(trunk, n, stride);
                net.g.output(name, y);
            }
            net
        }
    }

    fn count(g: &Graph, name: &str) -> usize {
        g.nodes().iter().filter(|node| node.op.name() == name).count()
    }

    #[test]
    fn codes_of_skip_connections_are_made_of_codes_and_all_bits_stay() {
        // With few results of a pixel, convolutions recode what they load; with many, the product before does, where memory allows.
        for (to, sizes, expected) in [(DType::F32, [8, 32], 1), (DType::F16, [8, 32], 1), (DType::F32, [132, 16], 1)] {
            let Net { mut g, params, .. } = Net::blocks(to, sizes);
            if to == DType::F16 {
                // A sum with a skip connection is rounded once less when it is fused: only what is before the first one is compared.
                let first = g.nodes().iter().filter(|node| node.op.name() == "integer_conv").nth(1).map(|node| node.outputs[0]);
                for name in ["y", "down"] {
                    g.output(name, first.expect("a convolution"));
                }
            }
            let fused = fuse(&g, &|_| false);
            if to == DType::F32 {
                assert_eq!([count(&fused, "dequantize"), count(&fused, "recode")], [0, expected], "{sizes:?}");
            }
            let inputs: Values = [("x".to_owned(), noise([2, 8, 8, 16], 3).cast(to))].into();
            let [before, after] = [&g, &fused].map(|g| interpret(g, &inputs, &params));
            assert!(before.len() == 2 && before.iter().all(|(name, y)| y.as_bytes() == after[name].as_bytes()), "{to} {sizes:?}");
        }
    }

    #[test]
    fn what_moves_in_steps_gets_the_pixels_that_it_reads() {
        let Net { g, .. } = Net::blocks(DType::F32, [8, 32]);
        let fused = fuse(&g, &|_| false);
        let recode = fused.nodes().iter().find(|node| node.op.name() == "recode").expect("one recodes");
        assert_eq!(fused.shape(recode.outputs[0]).dims(), [2, 4, 4, 32]);
        let strides = |g: &Graph| g.nodes().iter().filter(|node| steps_of(g, node).is_some()).count();
        assert_eq!([strides(&g), strides(&fused)], [1, 0]);
    }

    #[test]
    fn a_product_makes_two_codes_only_where_no_more_memory_is_needed() {
        let Net { g, .. } = Net::blocks(DType::F32, [132, 16]);
        let fused = fuse(&g, &|_| false);
        let twice =
            |g: &Graph| g.nodes().iter().filter(|node| node.op.name() == "integer_conv" && g.shape(node.outputs[0]).rank() == 2).count();
        // Inside, codes of 132 channels are the most; two of 16 fit beside them.
        assert_eq!(twice(&fused), 3);
        let Net { g, .. } = Net::blocks(DType::F32, [132, 160]);
        assert_eq!(twice(&fuse(&g, &|_| false)), 0, "two of 160 do not");
    }

    #[test]
    fn backward_reads_codes_and_gives_the_same() {
        let (mut net, mut wanted) = (Net { g: Graph::new(), params: Values::new(), to: DType::F32 }, Vec::new());
        let x = net.param(noise([2, 8, 8, 16], 3));
        let kept = net.kept(x);
        let y = net.conv(kept, 8, 1);
        let weights = net.param(noise([2, 8, 8, 8], 4));
        let product = crate::kernels::binary::mul(&mut net.g, y, weights);
        let loss = reduce::total(&mut net.g, product);
        wanted.extend(net.g.params().values().copied().filter(|&v| v != weights));
        for (i, gradient) in net.g.backward(loss, &wanted).into_iter().enumerate() {
            net.g.output(&i.to_string(), gradient.expect("a gradient"));
        }
        let Net { g, params, .. } = net;
        let fused = fuse(&g, &|_| true);
        let reads_codes = |g: &Graph| {
            g.nodes().iter().filter(|node| node.op.name() == "quantize_backward" && g.ty(node.inputs[0]).dtype == DType::I8).count()
        };
        // What is left are the values of the weights.
        assert_eq!([reads_codes(&g), reads_codes(&fused), count(&fused, "dequantize")], [0, 1, 1]);
        let [before, after] = [&g, &fused].map(|g| interpret(g, &Values::new(), &params));
        assert!(before.len() == wanted.len() && before.iter().all(|(name, y)| y.as_bytes() == after[name].as_bytes()));
    }
}
