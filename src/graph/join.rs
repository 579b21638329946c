//! A rewrite for training on codes: what happens to the gradient that comes out of a quantizer joins its backward. Where something else
//! reads the quantized tensor too (a skip connection, another quantizer), the gradients are added; where the tensor comes from an
//! activation, the sum goes back through it. Each would be a pass over memory of its own. So would the backward of a dropout behind a ReLU
//! or a softmax: it lets pass what is above zero, and of the rest the gradient does not matter to what is before it.
//!
//! The backward runs where it stood, so the other gradient must be there already. That is so for what is read later in the forward.

use super::rebuild::Rebuild;
use super::requantize::readers;
use super::{Graph, Op, Origin, Var};
use crate::kernels::binary::{Binary, Function as OfTwo};
use crate::kernels::coded::dropout_of;
use crate::kernels::dropout::Dropout;
use crate::kernels::epilogue::Activation;
use crate::kernels::quantize::QuantizeBackward;
use crate::kernels::softmax::SoftmaxBackward;
use crate::kernels::unary::{Function, UnaryBackward};
use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A backward with what joins it.
struct Joined {
    op: QuantizeBackward,
    other: Option<Var>,
    /// The nodes that it replaces, and the gradient that is now its result.
    gone: Vec<usize>,
    result: Var,
}

/// The same graph with fewer nodes.
pub(super) fn join(graph: &Graph) -> Graph {
    let walk = Walk::new(graph);
    let joined: HashMap<usize, Joined> = (0..graph.nodes().len()).filter_map(|i| Some((i, walk.joined(i)?))).collect();
    let gone: HashSet<usize> = joined.values().flat_map(|j| &j.gone).copied().collect();
    let mut rebuild = Rebuild::new(graph);
    for (index, node) in graph.nodes().iter().enumerate().filter(|(i, _)| !gone.contains(i)) {
        let Some(Joined { op, other, result, .. }) = joined.get(&index) else {
            rebuild.copy(node);
            continue;
        };
        rebuild.to.segment = node.segment;
        let mut inputs = rebuild.inputs(node);
        if let Some(other) = other {
            let other = rebuild.var(*other);
            inputs.push(rebuild.to.reshape(other, graph.shape(node.inputs[0]).dims()));
        }
        let outputs = rebuild.add(&node.scope, Arc::new(*op), &inputs);
        let d_x = rebuild.to.reshape(outputs[0], graph.shape(*result).dims());
        rebuild.stand_for(*result, d_x);
        rebuild.stand_for(node.outputs[1], outputs[1]);
    }
    rebuild.finish()
}

struct Walk<'a> {
    graph: &'a Graph,
    /// How often each value is read, and by which node last.
    readers: HashMap<Var, usize>,
    reader: HashMap<Var, usize>,
}

impl<'a> Walk<'a> {
    fn new(graph: &'a Graph) -> Self {
        let mut reader = HashMap::new();
        for (i, node) in graph.nodes().iter().enumerate() {
            reader.extend(node.inputs.iter().map(|&v| (graph.root(v), i)));
        }
        Self { graph, readers: readers(graph), reader }
    }

    fn joined(&self, index: usize) -> Option<Joined> {
        let node = &self.graph.nodes()[index];
        let &op: &QuantizeBackward = (&*node.op as &dyn Any).downcast_ref()?;
        if !op.d_x || op.added || op.activation != Activation::None {
            return None;
        }
        let mut joined = Joined { op, other: None, gone: Vec::new(), result: node.outputs[0] };
        self.add(&mut joined, index);
        if self.go_through_dropout(&mut joined, index).is_none() {
            self.go_through(&mut joined, self.graph.root(node.inputs[0]));
        }
        (!joined.gone.is_empty()).then_some(joined)
    }

    /// The only node that reads a value, and its op if it is such a one.
    fn behind<T: Op>(&self, var: Var) -> Option<(usize, &T)> {
        let root = self.graph.root(var);
        let reader = *self.reader.get(&root).filter(|_| self.readers[&root] == 1)?;
        Some((reader, (&*self.graph.nodes()[reader].op as &dyn Any).downcast_ref()?))
    }

    /// Takes over the sum with another gradient of the same type, which a node before has computed.
    fn add(&self, joined: &mut Joined, index: usize) {
        let Some((sum, Binary { function: OfTwo::Add })) = self.behind::<Binary>(joined.result) else { return };
        let node = &self.graph.nodes()[sum];
        let [a, b] = [node.inputs[0], node.inputs[1]];
        let other = if self.graph.root(a) == joined.result { b } else { a };
        let is_there = match self.graph.values()[self.graph.root(other).0].origin {
            Origin::Node { node, .. } => node < index,
            _ => true,
        };
        let [of_other, of_sum, of_x] = [other, node.outputs[0], joined.result].map(|v| self.graph.ty(v));
        let is_alike = of_other.shape == of_sum.shape && of_sum.shape.len() == of_x.shape.len();
        if is_there && is_alike && [of_other.dtype, of_sum.dtype] == [of_x.dtype; 2] && node.segment == self.graph.nodes()[index].segment {
            joined.op.added = true;
            joined.other = Some(other);
            joined.gone.push(sum);
            joined.result = node.outputs[0];
        }
    }

    /// Takes over the backward of a dropout that x comes from, and of a ReLU before it; a softmax before it keeps its own. What goes on is
    /// rounded as often as before: it is no sum, and of the type of d.
    fn go_through_dropout(&self, joined: &mut Joined, index: usize) -> Option<()> {
        let (node, root) = (&self.graph.nodes()[index], |var: Var| self.graph.root(var));
        let (backward, &dropout) = self.behind::<Dropout>(joined.result)?;
        let Origin::Node { node: forward, .. } = self.graph.values()[root(node.inputs[0]).0].origin else { return None };
        let [backward_node, forward] = [backward, forward].map(|i| &self.graph.nodes()[i]);
        let is_its = dropout_of(&*forward.op) == Some(dropout) && root(forward.inputs[1]) == root(backward_node.inputs[1]);
        let is_alike = self.graph.ty(node.inputs[0]).dtype == self.graph.ty(node.inputs[2]).dtype && backward_node.segment == node.segment;
        if joined.op.added || !is_its || !is_alike {
            return None;
        }
        let (y, d_y) = (root(forward.inputs[0]), backward_node.outputs[0]);
        let of_y = |i: &usize| root(self.graph.nodes()[*i].inputs[0]) == y;
        let is_relu = |op: &UnaryBackward| op.function == Function::Relu && op.to == self.graph.ty(d_y).dtype;
        let relu = self.behind::<UnaryBackward>(d_y).filter(|(_, op)| is_relu(op)).map(|(i, _)| i).filter(of_y);
        let softmax = self.behind::<SoftmaxBackward>(d_y).map(|(i, _)| i).filter(of_y);
        relu.or(softmax)?;
        joined.op = QuantizeBackward { activation: Activation::Relu, factor: dropout.scale(), ..joined.op };
        joined.gone.extend([backward].into_iter().chain(relu));
        joined.result = self.graph.nodes()[relu.unwrap_or(backward)].outputs[0];
        Some(())
    }

    /// Takes over the backward of the activation that x comes from.
    fn go_through(&self, joined: &mut Joined, x: Var) {
        let Some((node, &UnaryBackward { function, to })) = self.behind::<UnaryBackward>(joined.result) else { return };
        let activation = match function {
            Function::Relu => Activation::Relu,
            Function::Relu6 => Activation::Relu6,
            _ => return,
        };
        if self.graph.root(self.graph.nodes()[node].inputs[0]) == x && to == self.graph.ty(joined.result).dtype {
            joined.op.activation = activation;
            joined.gone.push(node);
            joined.result = self.graph.nodes()[node].outputs[0];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::noise;
    use crate::graph::{Values, fuse, interpret};
    use crate::kernels::dropout::dropout;
    use crate::kernels::quantize::{Levels, dequantize, quantize, quantizer_state};
    use crate::kernels::{binary, reduce, softmax, unary};
    use crate::tensor::compare::{Tolerance, compare};
    use crate::tensor::{DType, Host, TensorType};

    /// The gradients of x and of step sizes, where `relu(x)` is quantized some times, and read without that too.
    fn gradients(times: usize, beside: bool) -> Graph {
        let mut g = Graph::new();
        let scaled = |n: usize, seed: u64| Host::f32([n], noise([n], seed).to_f32().iter().map(|v| 3.0 * v + 1.0).collect());
        let x = g.constant(scaled(24, 1).reshape([3, 8]));
        let mut wanted = vec![x];
        let y = unary::relu(&mut g, x);
        let flat = g.reshape(y, [24]);
        let mut parts = Vec::new();
        for turn in 0..times {
            let alpha = g.constant(Host::f32([1], vec![0.3 + 0.1 * turn as f32]));
            let levels = Levels::new(3, false);
            let state = quantizer_state(&mut g, alpha, None, levels);
            let codes = quantize(&mut g, flat, state, levels, 24);
            parts.push(dequantize(&mut g, codes, state, 24, DType::F32));
            wanted.push(alpha);
        }
        parts.extend(beside.then_some(flat));
        let total = |(i, part): (usize, Var)| {
            let weights = g.constant(scaled(24, 40 + i as u64));
            let product = binary::mul(&mut g, part, weights);
            reduce::total(&mut g, product)
        };
        let totals: Vec<Var> = parts.into_iter().enumerate().map(total).collect();
        let loss = totals.into_iter().reduce(|a, b| binary::add(&mut g, a, b)).expect("a part");
        for (i, gradient) in g.backward(loss, &wanted).into_iter().enumerate() {
            g.output(&format!("{i}"), gradient.expect("a gradient"));
        }
        g
    }

    #[test]
    fn sums_of_gradients_and_activations_join_the_backward_of_quantizers() {
        for (times, beside) in [(1, false), (1, true), (2, false), (3, true)] {
            let g = gradients(times, beside);
            let fused = fuse(&g, &|_| true);
            let count = |g: &Graph, name: &str| g.nodes().iter().filter(|node| node.op.name() == name).count();
            assert_eq!([count(&g, "unary_backward"), count(&fused, "unary_backward")], [1, 0], "{times} {beside}");
            // The sums of the gradients; fusing also leaves out the loss itself, which is no output.
            let sums = |g: &Graph| g.nodes().iter().filter(|node| node.op.name() == "binary" && node.scope == "backward").count();
            assert_eq!(sums(&g) - sums(&fused), times + usize::from(beside) - 1, "{times} {beside}");
            let [before, after] = [&g, &fused].map(|g| interpret(g, &Values::new(), &Values::new()));
            for (name, expected) in &before {
                compare(&after[name], expected, Tolerance::of(1e-6)).unwrap_or_else(|e| panic!("{name}: {e}"));
            }
        }
    }

    /// The gradients of x and a step size, where what goes through a dropout is quantized.
    fn gradients_behind_dropout(of: fn(&mut Graph, Var) -> Var) -> Graph {
        let mut g = Graph::new();
        let (x, seed) = (g.constant(noise([5, 24], 1)), g.input("seed", TensorType::new([1], DType::U32)));
        let (alpha, levels) = (g.constant(Host::f32([1], vec![0.07])), Levels::new(3, false));
        let y = of(&mut g, x);
        let y = dropout(&mut g, y, seed, Dropout { p: 0.4, salt: 3 });
        let state = quantizer_state(&mut g, alpha, None, levels);
        let codes = quantize(&mut g, y, state, levels, 1);
        let values = dequantize(&mut g, codes, state, 1, DType::F32);
        g.output("values", values);
        let weights = g.constant(noise([5, 24], 2));
        let product = binary::mul(&mut g, values, weights);
        let loss = reduce::total(&mut g, product);
        for (name, gradient) in ["d_x", "d_alpha"].into_iter().zip(g.backward(loss, &[x, alpha])) {
            g.output(name, gradient.expect("a gradient"));
        }
        g
    }

    #[test]
    fn dropout_joins_the_quantizer_behind_it_both_ways() {
        let relu: fn(&mut Graph, Var) -> Var = unary::relu;
        let softmax: fn(&mut Graph, Var) -> Var = |g, x| softmax::softmax(g, x, None);
        let sigmoid: fn(&mut Graph, Var) -> Var = unary::sigmoid;
        // The gradient of a sigmoid matters where something was dropped from it.
        for (of, left) in [(relu, 0), (softmax, 0), (sigmoid, 1)] {
            let g = gradients_behind_dropout(of);
            let fused = fuse(&g, &|_| true);
            let count = |g: &Graph, name: &str| g.nodes().iter().filter(|node| node.op.name() == name).count();
            assert_eq!(["dropout", "dropout_codes", "quantize"].map(|name| count(&fused, name)), [left, 1, 0]);
            let inputs = Values::from([("seed".to_owned(), Host::u32([1], vec![5]))]);
            let [before, after] = [&g, &fused].map(|g| interpret(g, &inputs, &Values::new()));
            for (name, expected) in &before {
                compare(&after[name], expected, Tolerance::of(1e-6)).unwrap_or_else(|e| panic!("{name}: {e}"));
            }
        }
    }
}
