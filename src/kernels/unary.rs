//! Element-wise functions of one tensor: `y = f(x)`, and changes of element type.
//!
//! Shapes: x any, y the same. Saved for backward: y (each derivative is a function of the result).
//! One invocation an element; the output type may differ from the input type.

use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Op, Var};
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

/// `y = function(x)` in the element type `to`.
#[derive(Clone, Copy, Debug)]
pub struct Unary {
    /// Which function.
    pub function: Function,
    /// Element type of the result.
    pub to: DType,
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
        let kernel = Dispatch::new(wgsl!("unary.wgsl"), 1)
            .element("element_x", inputs[0].dtype)
            .element("element_y", outputs[0].dtype)
            .constant("FUNCTION", self.function as usize)
            .constant("GROUP", GROUP)
            .params(Words::of([n]))
            .over_items(n, GROUP);
        vec![kernel]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        inputs[0].shape.len() as u64
    }
}

/// `max(x, 0)`
pub fn relu(g: &mut Graph, x: Var) -> Var {
    let to = g.ty(x).dtype;
    g.apply(Unary { function: Function::Relu, to }, &[x])
}

/// `min(max(x, 0), 6)`
pub fn relu6(g: &mut Graph, x: Var) -> Var {
    let to = g.ty(x).dtype;
    g.apply(Unary { function: Function::Relu6, to }, &[x])
}

/// `1 / (1 + exp(-x))`
pub fn sigmoid(g: &mut Graph, x: Var) -> Var {
    let to = g.ty(x).dtype;
    g.apply(Unary { function: Function::Sigmoid, to }, &[x])
}

/// `−x`
pub fn negate(g: &mut Graph, x: Var) -> Var {
    let to = g.ty(x).dtype;
    g.apply(Unary { function: Function::Negate, to }, &[x])
}

/// The same values in another element type; no node when it is the same type.
pub fn cast(g: &mut Graph, x: Var, to: DType) -> Var {
    if g.ty(x).dtype == to { x } else { g.apply(Unary { function: Function::Identity, to }, &[x]) }
}

/// Cases of the op table.
pub fn cases() -> Vec<Case> {
    let shapes: [&[usize]; 8] = [&[1], &[7], &[256], &[257], &[5, 7, 11, 13], &[3, 1], &[1, 1, 1, 1021], &[65_535 * 256 + 300]];
    let mut cases = Vec::new();
    for (i, shape) in shapes.into_iter().enumerate() {
        for function in [Function::Relu, Function::Relu6, Function::Sigmoid, Function::Negate, Function::Identity] {
            // The shape past 65,535 workgroups is large: once is enough.
            if shape.iter().product::<usize>() > 1 << 20 && function != Function::Relu {
                continue;
            }
            let x = noise(shape, i as u64).to_f32().iter().map(|v| v * 12.0).collect();
            let case = |to| Case::new(Unary { function, to }, vec![Host::f32(shape, Vec::clone(&x))], Tolerance::of(1e-5));
            cases.push(case(DType::F32));
            if i < 4 {
                cases.push(case(DType::F16).in_f16(Tolerance::of(2e-3)));
                cases.push(Case { tolerance: Tolerance::of(2e-3), ..case(DType::F16) });
            }
        }
    }
    cases
}
