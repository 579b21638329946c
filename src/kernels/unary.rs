//! Element-wise functions of one tensor: `y = f(x)`, and changes of element type.
//!
//! Shapes: x any, y the same; the output type may differ from the input type.
//! Saved for backward: y (each derivative is a function of the result).

use super::rows::width_of;
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

const GROUP: usize = 256;

/// The function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// `x`: only the element type changes.
    Identity,
    /// `max(x, 0)`
    Relu,
    /// `min(max(x, 0), 6)`, MobileNet's.
    Relu6,
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// `−x`
    Negate,
}

impl Function {
    fn eval(self, x: f32) -> f32 {
        match self {
            Self::Identity => x,
            Self::Relu => x.max(0.0),
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Self::Negate => -x,
        }
    }

    /// The derivative where the function has the value y; at a bend 0, as PyTorch.
    fn derivative(self, y: f32) -> f32 {
        match self {
            Self::Identity => 1.0,
            Self::Relu => f32::from(y > 0.0),
            Self::Relu6 => f32::from(y > 0.0 && y < 6.0),
            Self::Sigmoid => y * (1.0 - y),
            Self::Negate => -1.0,
        }
    }
}

/// `y = function(x)` in the element type `to`.
#[derive(Clone, Copy, Debug)]
pub struct Unary {
    /// Which function.
    pub function: Function,
    /// Element type of the result.
    pub to: DType,
}

impl Op for Unary {
    fn name(&self) -> &'static str {
        "unary"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [x] = inputs else { panic!("unary: wants one input, found {}", inputs.len()) };
        assert!(x.dtype.is_float() && self.to.is_float(), "unary: {x} to {}", self.to);
        vec![x.with_dtype(self.to)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let y = inputs[0].to_f32().iter().map(|&x| self.function.eval(x)).collect();
        vec![Host::from_f32(outputs[0], y)]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let n = inputs[0].shape.len();
        let kernel = |width: usize| {
            Dispatch::new(wgsl!("unary.wgsl"), 1)
                .wide("wide_x", inputs[0].dtype, width)
                .wide("wide_y", outputs[0].dtype, width)
                .wide("wide", DType::F32, width)
                .constant("FUNCTION", self.function as usize)
                .constant("GROUP", GROUP)
                .params(Words::of([n / width]))
                .over_items(n / width, GROUP)
        };
        width_of(n).map(kernel).collect()
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], _wanted: &[bool]) -> Vec<Option<Var>> {
        let to = graph.ty(io.inputs[0]).dtype;
        let backward = |d_y| match self.function {
            Function::Identity => cast(graph, d_y, to),
            Function::Negate => graph.apply(Unary { function: Function::Negate, to }, &[d_y]),
            function => graph.apply(UnaryBackward { function, to }, &[io.outputs[0], d_y]),
        };
        vec![d_outputs[0].map(backward)]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        inputs[0].shape.len() as u64
    }
}

/// `(y, d_y) -> d_x = d_y · function'(x)`, for y = function(x), in the element type `to`.
#[derive(Clone, Copy, Debug)]
pub struct UnaryBackward {
    /// Which function; those whose derivative is constant need no such node.
    pub function: Function,
    /// Element type of the result.
    pub to: DType,
}

impl Op for UnaryBackward {
    fn name(&self) -> &'static str {
        "unary_backward"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let fits = inputs.len() == 2 && inputs[0] == inputs[1] && inputs[0].dtype.is_float() && self.to.is_float();
        let known = !matches!(self.function, Function::Identity | Function::Negate);
        assert!(fits && known, "unary_backward {:?}: wants y and d_y like it, found {}", self.function, ids(inputs));
        vec![inputs[0].with_dtype(self.to)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (y, d_y) = (inputs[0].to_f32(), inputs[1].to_f32());
        let d_x = y.iter().zip(d_y.iter()).map(|(&y, d_y)| d_y * self.function.derivative(y)).collect();
        vec![Host::from_f32(outputs[0], d_x)]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let n = inputs[0].shape.len();
        let kernel = |width: usize| {
            Dispatch::new(wgsl!("unary_backward.wgsl"), 2)
                .wide("wide_y", inputs[0].dtype, width)
                .wide("wide_x", outputs[0].dtype, width)
                .wide("wide", DType::F32, width)
                .constant("FUNCTION", self.function as usize)
                .constant("GROUP", GROUP)
                .params(Words::of([n / width]))
                .over_items(n / width, GROUP)
        };
        width_of(n).map(kernel).collect()
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        3 * inputs[0].shape.len() as u64
    }
}

fn apply(g: &mut Graph, function: Function, x: Var) -> Var {
    let to = g.ty(x).dtype;
    g.apply(Unary { function, to }, &[x])
}

/// `max(x, 0)`
pub fn relu(g: &mut Graph, x: Var) -> Var {
    apply(g, Function::Relu, x)
}

/// `min(max(x, 0), 6)`
pub fn relu6(g: &mut Graph, x: Var) -> Var {
    apply(g, Function::Relu6, x)
}

/// `1 / (1 + exp(-x))`
pub fn sigmoid(g: &mut Graph, x: Var) -> Var {
    apply(g, Function::Sigmoid, x)
}

/// `−x`
pub fn negate(g: &mut Graph, x: Var) -> Var {
    apply(g, Function::Negate, x)
}

/// The same values in another element type; no node when it is the same type.
pub fn cast(g: &mut Graph, x: Var, to: DType) -> Var {
    if g.ty(x).dtype == to { x } else { g.apply(Unary { function: Function::Identity, to }, &[x]) }
}

/// Cases of the op table.
pub fn cases() -> Vec<Case> {
    let shapes: [&[usize]; 8] = [&[1], &[7], &[256], &[257], &[5, 7, 11, 13], &[3, 4], &[1, 1, 1, 1021], &[65_535 * 256 + 301]];
    let functions = [Function::Relu, Function::Relu6, Function::Sigmoid, Function::Negate, Function::Identity];
    let mut cases = Vec::new();
    for (i, shape) in shapes.into_iter().enumerate() {
        let x: Vec<f32> = noise(shape, i as u64).to_f32().iter().map(|v| v * 12.0).collect();
        // The shape past 65,535 workgroups is large: once is enough.
        let large = x.len() > 1 << 20;
        for &function in if large { &functions[..1] } else { &functions } {
            let case = |to| Case::new(Unary { function, to }, vec![Host::f32(shape, x.clone())], Tolerance::of(1e-5));
            cases.push(case(DType::F32));
            if i < 4 {
                cases.push(case(DType::F16).in_f16(Tolerance::of(2e-3)));
                cases.push(Case { tolerance: Tolerance::of(2e-3), ..case(DType::F16) });
            }
        }
    }
    cases.extend(backward_cases());
    cases
}

fn backward_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, n) in [1, 7, 260, 1021].into_iter().enumerate() {
        for function in [Function::Relu, Function::Relu6, Function::Sigmoid] {
            // Values of the function, its bends among them.
            let mut y: Vec<f32> = noise([n], i as u64).to_f32().iter().map(|&v| function.eval(v * 12.0)).collect();
            y[0] = function.eval(0.0);
            let op = |to| UnaryBackward { function, to };
            let case = Case::new(op(DType::F32), vec![Host::f32([n], y), noise([n], 50)], Tolerance::of(1e-6));
            let mut half = case.in_f16(Tolerance::of(2e-3));
            cases.extend([half.clone(), case]);
            half.op = std::sync::Arc::new(op(DType::F16));
            cases.push(half);
        }
    }
    cases
}
