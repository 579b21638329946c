//! Rewrites that save passes over memory: what follows a matrix product or a convolution moves into its epilogue,
//! `activation(scale · sum + shift + residual)`.
//!
//! Each rule looks at one node and at the product that feeds it. It applies only when the product's result has no other
//! reader and is no output of the graph, and when the epilogue still has the place that the rule needs free, behind
//! everything that is there already. Quantizers follow at the end: see [`super::lookup`], [`super::pool`], [`super::requantize`],
//! [`super::skip`], [`super::pad`], [`super::join`] and [`super::batch`]; where skip connections are codes, [`super::recode`],
//! [`super::second`] and [`super::saved`].

use super::attend::attend;
use super::batch::batch;
use super::fold::constants;
use super::join::join;
use super::lookup::look_up;
use super::norm::norm;
use super::pad::pad;
use super::pool::pool;
use super::rebuild::{Rebuild, constants_first, prune};
use super::recode::{recode, while_loading};
use super::requantize::requantize;
use super::saved::saved;
use super::second::second;
use super::skip::skip;
use super::{Graph, Node, Op, Origin, Var};
use crate::gpu::Capabilities;
use crate::kernels::binary::{self, Binary};
use crate::kernels::conv::Conv2d;
use crate::kernels::depthwise::Depthwise;
use crate::kernels::epilogue::{Activation, Epilogue};
use crate::kernels::integer::{self, Arithmetic, IntegerNorm};
use crate::kernels::linear::Linear;
use crate::kernels::scale_shift::{ScaleShift, scale_shift};
use crate::kernels::unary::{self, Unary};
use crate::tensor::DType;
use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A rule: the product that does the node's work too, if there is one.
type Rule = fn(&mut Fusion<'_>, &dyn Op, &[Var]) -> Option<Product>;

const RULES: &[Rule] = &[absorb_scale_shift, absorb_residual, absorb_activation];

/// The same graph with fewer nodes. What depends on parameters alone, those in `trainable` excepted, is computed once, so that it may
/// be rearranged for the others; [`fold`](super::fold) is to follow.
pub fn fuse(graph: &Graph, trainable: &dyn Fn(&str) -> bool) -> Graph {
    let mut fusion = Fusion { graph: Rebuild::new(graph), private: HashSet::new() };
    let private = values_with_one_reader(graph);
    for node in graph.nodes() {
        fusion.graph.to.segment = node.segment;
        let inputs = fusion.graph.inputs(node);
        let outputs = match RULES.iter().find_map(|rule| rule(&mut fusion, &*node.op, &inputs)) {
            Some(product) => product.build(&mut fusion.graph),
            None => fusion.graph.add(&node.scope, node.op.clone(), &inputs),
        };
        for (&old, new) in node.outputs.iter().zip(outputs) {
            fusion.graph.stand_for(old, new);
            if private.contains(&old) {
                fusion.private.insert(new);
            }
        }
    }
    // Products that were absorbed still stand where they were, without readers.
    let graph = look_up(&constants_first(&prune(&fusion.graph.finish()), trainable), trainable);
    let graph = recode(&pool(&graph));
    let graph = while_loading(&skip(&requantize(&graph, trainable)));
    let constant = constants(&graph, trainable);
    let graph = second(&graph, &|var| constant.contains(&graph.root(var)));
    batch(&saved(&join(&pad(&graph))), trainable)
}

/// [`fuse`], and what is faster on a device: attention on codes in one kernel, and layers on codes with the norms behind them.
pub fn fuse_for(graph: &Graph, device: &Capabilities) -> Graph {
    norm(&attend(&fuse(graph, &|_| false), device), device)
}

struct Fusion<'a> {
    graph: Rebuild<'a>,
    /// Values of the new graph that have one reader.
    private: HashSet<Var>,
}

/// A matrix product or convolution with its operands, on floats or codes.
struct Product {
    op: Arc<dyn Op>,
    scope: String,
    /// What stands before the inputs of the epilogue.
    operands: Vec<Var>,
    epilogue: Epilogue,
    scale: Option<Var>,
    shift: Option<Var>,
    residual: Option<Var>,
}

impl Product {
    /// Reads a node back as a product.
    fn of(node: &Node) -> Option<Self> {
        let (epilogue, first) = epilogue_of(&*node.op)?;
        let [scale, shift, residual] = epilogue.indices(first).map(|index| index.map(|i| node.inputs[i]));
        let (op, scope, operands) = (node.op.clone(), node.scope.clone(), node.inputs[..first].to_vec());
        Some(Self { op, scope, operands, epilogue, scale, shift, residual })
    }

    /// Adds it to a graph.
    fn build(self, graph: &mut Rebuild<'_>) -> Vec<Var> {
        let epilogue = Epilogue {
            scale: self.scale.is_some(),
            shift: self.shift.is_some(),
            residual: self.residual.is_some(),
            activation: self.epilogue.activation,
        };
        let inputs: Vec<Var> = self.operands.into_iter().chain(self.scale).chain(self.shift).chain(self.residual).collect();
        graph.add(&self.scope, with_epilogue(&*self.op, epilogue), &inputs)
    }
}

impl Fusion<'_> {
    /// The product that computes a value and that nothing but the node at hand reads, if it has no activation yet.
    fn product(&self, var: Var) -> Option<Product> {
        let Origin::Node { node, .. } = self.graph.to.values()[var.0].origin else { return None };
        let product = Product::of(&self.graph.to.nodes()[node])?;
        (self.private.contains(&var) && product.epilogue.activation == Activation::None).then_some(product)
    }
}

/// `scale · (sum + bias) + shift = scale · sum + (scale · bias + shift)`: a folded batch norm.
fn absorb_scale_shift(fusion: &mut Fusion<'_>, op: &dyn Op, inputs: &[Var]) -> Option<Product> {
    (op as &dyn Any).downcast_ref::<ScaleShift>()?;
    let product = fusion.product(inputs[0])?;
    let (scale, shift) = (inputs[1], inputs[2]);
    if product.residual.is_some() {
        return None;
    }
    if integer::arithmetic_of(&*product.op).is_some() {
        return norm_behind_codes(fusion, product, scale, shift);
    }
    if product.scale.is_some() {
        return None;
    }
    let shift = match product.shift {
        None => shift,
        Some(bias) => scale_shift(&mut fusion.graph.to, bias, scale, shift),
    };
    Some(Product { scale: Some(scale), shift: Some(shift), ..product })
}

/// A product of codes has a scale and a shift already: the norm changes both, rounding as the product itself would.
fn norm_behind_codes(fusion: &mut Fusion<'_>, product: Product, s: Var, b: Var) -> Option<Product> {
    let (scale, shift) = product.scale.zip(product.shift)?;
    let g = &mut fusion.graph.to;
    if g.ty(s).dtype != DType::F32 {
        return None;
    }
    let outputs = g.apply_all(Arc::new(IntegerNorm), &[scale, shift, s, b]);
    Some(Product { scale: Some(outputs[0]), shift: Some(outputs[1]), ..product })
}

/// `sum + residual`: a skip connection. The product runs where the sum stood, when the other operand is there.
fn absorb_residual(fusion: &mut Fusion<'_>, op: &dyn Op, inputs: &[Var]) -> Option<Product> {
    let Binary { function: binary::Function::Add } = (op as &dyn Any).downcast_ref()? else { return None };
    let [a, b] = [inputs[0], inputs[1]];
    if fusion.graph.to.ty(a) != fusion.graph.to.ty(b) {
        return None;
    }
    let (product, residual) = fusion.product(a).map(|p| (p, b)).or_else(|| fusion.product(b).map(|p| (p, a)))?;
    product.residual.is_none().then_some(Product { residual: Some(residual), ..product })
}

/// ReLU and ReLU6.
fn absorb_activation(fusion: &mut Fusion<'_>, op: &dyn Op, inputs: &[Var]) -> Option<Product> {
    let Unary { function, to } = *(op as &dyn Any).downcast_ref::<Unary>()?;
    let activation = match function {
        unary::Function::Relu => Activation::Relu,
        unary::Function::Relu6 => Activation::Relu6,
        _ => return None,
    };
    if fusion.graph.to.ty(inputs[0]).dtype != to {
        return None;
    }
    let product = fusion.product(inputs[0])?;
    Some(Product { epilogue: Epilogue { activation, ..product.epilogue }, ..product })
}

/// The epilogue of an op that has one, and where its inputs begin.
fn epilogue_of(op: &dyn Op) -> Option<(Epilogue, usize)> {
    if let Some(arithmetic) = integer::arithmetic_of(op) {
        return Some((arithmetic.epilogue, Arithmetic::FIRST));
    }
    let op = op as &dyn Any;
    let linear = op.downcast_ref().map(|l: &Linear| l.epilogue);
    let conv = || op.downcast_ref().map(|c: &Conv2d| c.epilogue);
    let epilogue = linear.or_else(conv).or_else(|| op.downcast_ref().map(|d: &Depthwise| d.epilogue));
    epilogue.map(|epilogue| (epilogue, 2))
}

/// The same op with another epilogue.
///
/// # Panics
/// When it has none.
fn with_epilogue(op: &dyn Op, epilogue: Epilogue) -> Arc<dyn Op> {
    if let Some(arithmetic) = integer::arithmetic_of(op) {
        let with = integer::with_arithmetic(op, Arithmetic { epilogue, ..arithmetic });
        return with.unwrap_or_else(|| panic!("{}: a kernel has room for any epilogue", op.name()));
    }
    let any = op as &dyn Any;
    if let Some(&linear) = any.downcast_ref::<Linear>() {
        return Arc::new(Linear { epilogue, ..linear });
    }
    if let Some(&depthwise) = any.downcast_ref::<Depthwise>() {
        return Arc::new(Depthwise { epilogue, ..depthwise });
    }
    let &conv = any.downcast_ref::<Conv2d>().unwrap_or_else(|| panic!("{} has no epilogue", op.name()));
    Arc::new(Conv2d { epilogue, ..conv })
}

/// Values that exactly one node reads, once, and that no view or output of the graph shows.
fn values_with_one_reader(graph: &Graph) -> HashSet<Var> {
    let mut readers: HashMap<Var, usize> = HashMap::new();
    let views = graph.values().iter().filter_map(|value| match value.origin {
        Origin::View { of, .. } => Some(of),
        _ => None,
    });
    // A view counts twice: what reads it may be several nodes, and none of them sees the shape of the product.
    for var in graph.outputs().values().copied().chain(views) {
        *readers.entry(var).or_default() += 2;
    }
    for &var in graph.nodes().iter().flat_map(|node| &node.inputs) {
        *readers.entry(var).or_default() += 1;
    }
    readers.into_iter().filter(|(_, n)| *n == 1).map(|(var, _)| var).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::noise;
    use crate::graph::{Values, interpret};
    use crate::kernels::conv::{Window, conv2d, conv2d_bias};
    use crate::kernels::depthwise::depthwise;
    use crate::kernels::linear::linear;
    use crate::kernels::unary::{relu, relu6, sigmoid};
    use crate::tensor::compare::{Tolerance, compare};
    use crate::tensor::{DType, Host, TensorType};

    /// A graph under test; its inputs are noise.
    struct Test {
        g: Graph,
        inputs: Values,
    }

    impl Test {
        fn new() -> Self {
            Self { g: Graph::new(), inputs: Values::new() }
        }

        fn input(&mut self, shape: &[usize]) -> Var {
            let name = format!("{}", self.inputs.len());
            self.inputs.insert(name.clone(), noise(shape, self.inputs.len() as u64));
            self.g.input(&name, TensorType::f32(shape))
        }

        /// A 3×3 convolution of 4 channels to 6.
        fn conv(&mut self) -> Var {
            let (x, w) = (self.input(&[2, 5, 7, 4]), self.input(&[6, 3, 3, 4]));
            conv2d(&mut self.g, x, w, Window { padding: 1, ..Window::default() })
        }

        fn linear(&mut self, bias: bool) -> Var {
            let (x, w) = (self.input(&[2, 5, 4]), self.input(&[6, 4]));
            let bias = bias.then(|| self.input(&[6]));
            linear(&mut self.g, x, w, bias)
        }

        fn scale_shift(&mut self, x: Var) -> Var {
            let (scale, shift) = (self.input(&[6]), self.input(&[6]));
            scale_shift(&mut self.g, x, scale, shift)
        }

        /// Fuses, checks that the results are the same, and returns how many nodes there were and are.
        fn nodes(mut self, y: Var) -> (usize, usize) {
            self.g.output("y", y);
            let fused = fuse(&self.g, &|_| false);
            let (before, after) = (interpret(&self.g, &self.inputs, &Values::new()), interpret(&fused, &self.inputs, &Values::new()));
            assert!(before.len() == after.len() && !before.is_empty());
            for (name, expected) in &before {
                compare(&after[name], expected, Tolerance::of(1e-6)).unwrap_or_else(|e| panic!("{name}: {e}"));
            }
            (self.g.nodes().len(), fused.nodes().len())
        }
    }

    #[test]
    fn a_batch_norm_moves_into_the_convolution() {
        let mut t = Test::new();
        let y = t.conv();
        let y = t.scale_shift(y);
        assert_eq!(t.nodes(y), (2, 1));
    }

    #[test]
    fn a_batch_norm_and_its_activation_move_into_a_depthwise_convolution() {
        let mut t = Test::new();
        let (x, w) = (t.input(&[1, 5, 4, 6]), t.input(&[6, 3, 3, 1]));
        let y = depthwise(&mut t.g, x, w, Window { padding: 1, ..Window::default() });
        let y = t.scale_shift(y);
        let y = relu6(&mut t.g, y);
        assert_eq!(t.nodes(y), (3, 1));
    }

    #[test]
    fn a_batch_norm_behind_a_bias_composes_with_it() {
        let mut t = Test::new();
        let (x, w, b) = (t.input(&[1, 3, 3, 4]), t.input(&[6, 1, 1, 4]), t.input(&[6]));
        let y = conv2d_bias(&mut t.g, x, w, b, Window::default());
        let y = t.scale_shift(y);
        let y = relu(&mut t.g, y);
        // The convolution, and bias · scale + shift on six numbers, which folding removes.
        assert_eq!(t.nodes(y), (3, 2));
    }

    #[test]
    fn a_second_scale_finds_its_place_taken() {
        let mut t = Test::new();
        let y = t.conv();
        let y = t.scale_shift(y);
        let y = t.scale_shift(y);
        assert_eq!(t.nodes(y), (3, 2));
    }

    #[test]
    fn a_skip_connection_moves_into_the_product_on_either_side() {
        for product_first in [true, false] {
            let mut t = Test::new();
            let (y, r) = (t.linear(true), t.input(&[2, 5, 6]));
            let sum = if product_first { binary::add(&mut t.g, y, r) } else { binary::add(&mut t.g, r, y) };
            assert_eq!(t.nodes(sum), (2, 1));
        }
    }

    #[test]
    fn of_two_products_one_takes_the_other_as_its_residual() {
        let mut t = Test::new();
        let (a, b) = (t.linear(false), t.linear(true));
        let sum = binary::add(&mut t.g, a, b);
        let y = relu(&mut t.g, sum);
        assert_eq!(t.nodes(y), (4, 2));
    }

    #[test]
    fn a_sum_with_itself_stays() {
        let mut t = Test::new();
        let y = t.linear(true);
        let sum = binary::add(&mut t.g, y, y);
        assert_eq!(t.nodes(sum), (2, 2));
    }

    #[test]
    fn a_broadcast_sum_stays() {
        let mut t = Test::new();
        let (y, r) = (t.linear(true), t.input(&[5, 6]));
        let sum = binary::add(&mut t.g, y, r);
        assert_eq!(t.nodes(sum), (2, 2));
    }

    #[test]
    fn an_activation_moves_into_the_product() {
        let mut t = Test::new();
        let y = t.linear(true);
        let y = relu(&mut t.g, y);
        assert_eq!(t.nodes(y), (2, 1));
        let mut t = Test::new();
        let y = t.conv();
        let y = relu6(&mut t.g, y);
        assert_eq!(t.nodes(y), (2, 1));
        let mut t = Test::new();
        let y = t.linear(true);
        let y = sigmoid(&mut t.g, y);
        assert_eq!(t.nodes(y), (2, 2), "the epilogue has no sigmoid");
    }

    #[test]
    fn an_activation_that_changes_the_type_stays() {
        let mut t = Test::new();
        let y = t.linear(true);
        let y = t.g.apply(Unary { function: unary::Function::Relu, to: DType::F16 }, &[y]);
        let y = unary::cast(&mut t.g, y, DType::F32);
        assert_eq!(t.nodes(y), (3, 3));
    }

    #[test]
    fn nothing_moves_in_front_of_an_activation() {
        let mut t = Test::new();
        let (y, r) = (t.linear(true), t.input(&[2, 5, 6]));
        let y = relu(&mut t.g, y);
        let y = binary::add(&mut t.g, y, r);
        let y = t.scale_shift(y);
        assert_eq!(t.nodes(y), (4, 3));
    }

    #[test]
    fn a_scale_does_not_move_in_front_of_a_residual() {
        let mut t = Test::new();
        let (y, r) = (t.linear(true), t.input(&[2, 5, 6]));
        let y = binary::add(&mut t.g, y, r);
        let y = t.scale_shift(y);
        assert_eq!(t.nodes(y), (3, 2));
    }

    #[test]
    fn a_value_with_another_reader_stays() {
        let mut t = Test::new();
        let y = t.linear(true);
        let a = relu(&mut t.g, y);
        let b = sigmoid(&mut t.g, y);
        let sum = binary::add(&mut t.g, a, b);
        assert_eq!(t.nodes(sum), (4, 4));
    }

    #[test]
    fn an_output_stays() {
        let mut t = Test::new();
        let y = t.linear(true);
        t.g.output("before", y);
        let y = relu(&mut t.g, y);
        assert_eq!(t.nodes(y), (2, 2));
    }

    #[test]
    fn a_value_that_a_view_shows_stays() {
        let mut t = Test::new();
        let y = t.linear(true);
        let flat = t.g.reshape(y, [10, 6]);
        let y = relu(&mut t.g, y);
        t.g.output("flat", flat);
        assert_eq!(t.nodes(y), (2, 2));
    }

    #[test]
    fn a_residual_block_becomes_its_convolutions() {
        let mut t = Test::new();
        let x = t.input(&[1, 6, 5, 4]);
        let conv = |t: &mut Test, x: Var, out: usize| {
            let w = t.input(&[out, 1, 1, t.g.shape(x).last()]);
            let y = conv2d(&mut t.g, x, w, Window::default());
            let (scale, shift) = (t.input(&[out]), t.input(&[out]));
            scale_shift(&mut t.g, y, scale, shift)
        };
        let y = conv(&mut t, x, 8);
        let y = relu(&mut t.g, y);
        let y = conv(&mut t, y, 16);
        let identity = conv(&mut t, x, 16);
        let sum = binary::add(&mut t.g, y, identity);
        let y = relu(&mut t.g, sum);
        assert_eq!(t.nodes(y), (9, 3));
    }

    #[test]
    fn what_nobody_reads_is_removed() {
        let mut t = Test::new();
        let y = t.linear(true);
        sigmoid(&mut t.g, y);
        let z = relu6(&mut t.g, y);
        assert_eq!(t.nodes(z), (3, 2));
    }

    #[test]
    fn inputs_keep_their_order_and_scopes_their_names() {
        let mut g = Graph::new();
        let unused = g.input("unused", TensorType::f32([1]));
        let x = g.input("x", TensorType::f32([2, 4]));
        let w = g.constant(Host::zeros(TensorType::f32([3, 4])));
        let y = g.scoped("layer", |g| linear(g, x, w, None));
        g.output("y", y);
        let fused = fuse(&g, &|_| false);
        assert_eq!(fused.inputs().map(|(n, _)| n.to_owned()).collect::<Vec<_>>(), ["unused", "x"]);
        assert_eq!(fused.nodes()[0].scope, "layer");
        assert_eq!(fused.ty(unused), g.ty(unused));
    }
}
