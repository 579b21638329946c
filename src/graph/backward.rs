//! The reverse walk: gradient nodes appended to the graph that they differentiate.

use super::{Graph, Io, Var};
use crate::kernels::{binary, unary};
use crate::tensor::{DType, Host, TensorType};
use std::collections::{HashMap, HashSet};

impl Graph {
    /// Appends the nodes that compute the gradient of `loss` (`f32[1]`) with respect to each of `wanted`, and returns these
    /// gradients: of the shape and type of the value, or in f32, or `None` where the loss does not depend on it. A gradient belongs
    /// to the elements of a value, so that a view and what it shows have the same one. That of a quantizer's codes (`i8`) is,
    /// by convention, the gradient of the values that they stand for: floats of the codes' shape.
    ///
    /// Nodes are made only along paths from a wanted value to the loss, in the scope of the node that they differentiate
    /// followed by `backward`. What several nodes read gets the sum of their gradients, in the order of the walk.
    /// Differentiate before fusing: the epilogues of fused products have no gradient.
    ///
    /// # Panics
    /// When `loss` is not `f32[1]`, when an op on the way has no gradient, or gives one of another shape or type.
    #[track_caller]
    pub fn backward(&mut self, loss: Var, wanted: &[Var]) -> Vec<Option<Var>> {
        assert_eq!(self.ty(loss), TensorType::f32([1]), "backward: the loss must be f32[1]");
        let active = self.depending_on(wanted);
        let mut walk = Walk { gradients: HashMap::new() };
        if active.contains(&self.root(loss)) {
            let one = self.constant(Host::f32([1], vec![1.0]));
            walk.add(self, loss, one);
        }
        let outer = std::mem::take(&mut self.scope);
        for index in (0..self.nodes.len()).rev() {
            walk.node(self, index, &active);
        }
        self.scope = outer;
        wanted.iter().map(|&v| walk.gradient_of(self, v)).collect()
    }

    /// The roots whose elements depend on any of the given values, these included.
    fn depending_on(&self, wanted: &[Var]) -> HashSet<Var> {
        let mut active: HashSet<Var> = wanted.iter().map(|&v| self.root(v)).collect();
        for node in &self.nodes {
            if node.inputs.iter().any(|&v| active.contains(&self.root(v))) {
                active.extend(node.outputs.iter().copied());
            }
        }
        active
    }
}

/// The gradients known so far, of roots.
struct Walk {
    gradients: HashMap<Var, Var>,
}

impl Walk {
    /// Adds a gradient of a value to that of its root.
    fn add(&mut self, graph: &mut Graph, var: Var, gradient: Var) {
        let root = graph.root(var);
        let (ty, found) = (graph.ty(var), graph.ty(gradient));
        let fits =
            found == ty || (found.shape == ty.shape && (found.dtype == DType::F32 || ty.dtype == DType::I8 && found.dtype.is_float()));
        assert!(fits, "a gradient of {ty} cannot be {found}");
        let shape = graph.shape(root);
        let gradient = graph.reshape(gradient, shape.dims());
        let sum = match self.gradients.get(&root) {
            Some(&known) => add(graph, known, gradient),
            None => gradient,
        };
        self.gradients.insert(root, sum);
    }

    /// The gradient of a value, in its shape.
    fn gradient_of(&self, graph: &mut Graph, var: Var) -> Option<Var> {
        let gradient = *self.gradients.get(&graph.root(var))?;
        let shape = graph.shape(var);
        Some(graph.reshape(gradient, shape.dims()))
    }

    /// Carries the gradients of a node's outputs to its inputs.
    fn node(&mut self, graph: &mut Graph, index: usize, active: &HashSet<Var>) {
        let node = graph.nodes[index].clone();
        let d_outputs: Vec<Option<Var>> = node.outputs.iter().map(|v| self.gradients.get(v).copied()).collect();
        let wanted: Vec<bool> = node.inputs.iter().map(|&v| active.contains(&graph.root(v))).collect();
        if d_outputs.iter().all(Option::is_none) || !wanted.contains(&true) {
            return;
        }
        graph.scope = [node.scope.as_str(), "backward"].into_iter().filter(|s| !s.is_empty()).map(str::to_owned).collect();
        let io = Io { inputs: node.inputs.clone(), outputs: node.outputs.clone() };
        let d_inputs = node.op.gradient(graph, &io, &d_outputs, &wanted);
        assert_eq!(d_inputs.len(), node.inputs.len(), "{}: one gradient an input", node.op.name());
        for ((&input, gradient), wanted) in node.inputs.iter().zip(d_inputs).zip(wanted) {
            if let Some(gradient) = gradient.filter(|_| wanted) {
                self.add(graph, input, gradient);
            }
        }
    }
}

/// The sum of two gradients, in f32 when one of them is.
fn add(graph: &mut Graph, a: Var, b: Var) -> Var {
    let to = if graph.ty(a).dtype == graph.ty(b).dtype { graph.ty(a).dtype } else { DType::F32 };
    let [a, b] = [a, b].map(|v| unary::cast(graph, v, to));
    binary::add(graph, a, b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Values, interpret};
    use crate::kernels::{reduce, unary};

    /// The values of some gradients of a graph of inputs.
    fn values(mut g: Graph, gradients: &[(&str, Option<Var>)], inputs: Values) -> Vec<Vec<f32>> {
        for (name, gradient) in gradients {
            g.output(name, gradient.expect("a gradient"));
        }
        let y = interpret(&g, &inputs, &Values::new());
        gradients.iter().map(|(name, _)| y[*name].to_f32().into_owned()).collect()
    }

    #[test]
    fn what_is_read_several_times_gets_the_sum() {
        let mut g = Graph::new();
        let x = g.input("x", TensorType::f32([2]));
        // Σ x² + x, through a view that is read twice.
        let view = g.reshape(x, [2, 1]);
        let square = binary::mul(&mut g, view, view);
        let sum = binary::add(&mut g, square, view);
        let loss = reduce::total(&mut g, sum);
        let d_x = g.backward(loss, &[x])[0];
        assert_eq!(d_x.map(|d| g.shape(d)), Some(g.shape(x)));
        let inputs = Values::from([("x".to_owned(), Host::f32([2], vec![3.0, -0.5]))]);
        assert_eq!(values(g, &[("x", d_x)], inputs), [[7.0, 0.0]]);
    }

    #[test]
    fn nodes_are_made_only_on_the_way_to_what_is_wanted() {
        let mut g = Graph::new();
        let [x, w, other] = ["x", "w", "other"].map(|name| g.input(name, TensorType::f32([3])));
        let hidden = g.scoped("layer", |g| binary::mul(g, x, w));
        let loss = reduce::total(&mut g, hidden);
        let dead = unary::relu(&mut g, other);
        let before = g.nodes().len();
        let gradients = g.backward(loss, &[w, other, dead]);
        assert!(gradients[0].is_some() && gradients[1].is_none() && gradients[2].is_none());
        let added: Vec<_> = g.nodes()[before..].iter().map(|n| (n.op.name(), n.scope.as_str())).collect();
        assert_eq!(added, [("spread_rows", "backward"), ("binary", "layer.backward")]);
    }

    #[test]
    fn the_gradient_of_the_loss_itself_is_one() {
        let mut g = Graph::new();
        let x = g.input("x", TensorType::f32([1]));
        let y = unary::negate(&mut g, x);
        let d = g.backward(y, &[x, y]);
        let z = d.iter().map(|d| unary::negate(&mut g, d.expect("a gradient"))).collect::<Vec<_>>();
        let inputs = Values::from([("x".to_owned(), Host::f32([1], vec![5.0]))]);
        assert_eq!(values(g, &[("x", Some(z[0])), ("y", Some(z[1]))], inputs), [[1.0], [-1.0]]);
    }

    #[test]
    #[should_panic(expected = "the loss must be f32[1]")]
    fn a_loss_of_several_numbers_is_refused() {
        let mut g = Graph::new();
        let x = g.input("x", TensorType::f32([2]));
        g.backward(x, &[x]);
    }
}
