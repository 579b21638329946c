//! Element-wise functions of two tensors, the second one repeated where it is smaller: `y = a + b`, `a − b`, `a · b`.
//!
//! Shapes: a any, b = the last dimensions of a (dimensions of 1 before them are allowed), y as a. So `[C]`, `[L, C]` and
//! `[1, L, C]` all add to `[B, L, C]`. Element types: a and b may differ, y is as a.
//! Saved for backward: a and b, for the product only.

use super::rows::{floats, width_of};
use super::{reduce, unary};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, Shape, TensorType};
use crate::wgsl;

const GROUP: usize = 256;

/// The function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// `a + b`
    Add,
    /// `a − b`
    Sub,
    /// `a · b`
    Mul,
}

/// `y = a function b`, b repeated over the leading dimensions of a.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binary {
    /// Which function.
    pub function: Function,
}

impl Function {
    fn eval(self, a: f32, b: f32) -> f32 {
        match self {
            Self::Add => a + b,
            Self::Sub => a - b,
            Self::Mul => a * b,
        }
    }
}

/// Whether `b` repeats evenly over `a`: its dimensions without leading ones are the last dimensions of `a`.
fn repeats(a: Shape, b: Shape) -> bool {
    let leading = b.dims().iter().take_while(|&&d| d == 1).count();
    b.rank() <= a.rank() && a.dims().ends_with(&b.dims()[leading..])
}

impl Binary {
    /// A sum.
    pub(crate) const ADD: Self = Self { function: Function::Add };

    /// The kernel without what stores its results.
    pub(super) fn kernel(self, a: TensorType, b: TensorType, width: usize) -> Dispatch {
        let n = a.shape.len() / width;
        Dispatch::new(wgsl!("binary.wgsl"), 2)
            .wide("wide_a", a.dtype, width)
            .wide("wide_b", b.dtype, width)
            .wide("wide", DType::F32, width)
            .constant("FUNCTION", self.function as usize)
            .constant("GROUP", GROUP)
            .flag("BROADCAST", a.shape.len() != b.shape.len())
            .params(Words::of([n, b.shape.len() / width]))
            .over_items(n, GROUP)
    }

    /// The gradient of b from that of `a (op) b` at full size: the sum over the repetitions, in b's type.
    fn d_b(graph: &mut Graph, full: Var, b: Var) -> Var {
        let (n, ty) = (graph.shape(full).len(), graph.ty(b));
        if n == ty.shape.len() {
            let full = graph.reshape(full, ty.shape.dims());
            return unary::cast(graph, full, ty.dtype);
        }
        let rows = graph.reshape(full, [n / ty.shape.len(), ty.shape.len()]);
        let sums = reduce::column_sums(graph, rows, ty.dtype);
        graph.reshape(sums, ty.shape.dims())
    }
}

impl Op for Binary {
    fn name(&self) -> &'static str {
        "binary"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [a, b] = inputs else { panic!("binary: wants two inputs, found {}", inputs.len()) };
        let fits = a.dtype.is_float() && b.dtype.is_float() && repeats(a.shape, b.shape);
        assert!(fits, "binary {:?}: the second must be floats of the first's last dimensions: {}", self.function, ids(inputs));
        vec![*a]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (a, b) = (inputs[0].to_f32(), inputs[1].to_f32());
        let y = a.iter().zip(b.iter().cycle()).map(|(&a, &b)| self.function.eval(a, b)).collect();
        vec![Host::from_f32(outputs[0], y)]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let (a, b) = (inputs[0], inputs[1]);
        width_of(b.shape.len()).map(|width| floats(self.kernel(a, b, width), 3, a.dtype, width)).collect()
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], wanted: &[bool]) -> Vec<Option<Var>> {
        let Some(d_y) = d_outputs[0] else { return vec![None; 2] };
        let (a, b) = (io.inputs[0], io.inputs[1]);
        let d_a = wanted[0].then(|| if self.function == Function::Mul { mul(graph, d_y, b) } else { d_y });
        let d_b = wanted[1].then(|| {
            let full = match self.function {
                Function::Add | Function::Sub => d_y,
                Function::Mul => mul(graph, d_y, a),
            };
            let d_b = Self::d_b(graph, full, b);
            if self.function == Function::Sub { unary::negate(graph, d_b) } else { d_b }
        });
        vec![d_a, d_b]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        inputs[0].shape.len() as u64
    }
}

/// `a + b`, b repeated over the leading dimensions of a.
pub fn add(g: &mut Graph, a: Var, b: Var) -> Var {
    g.apply(Binary { function: Function::Add }, &[a, b])
}

/// `a − b`, b repeated over the leading dimensions of a.
pub fn sub(g: &mut Graph, a: Var, b: Var) -> Var {
    g.apply(Binary { function: Function::Sub }, &[a, b])
}

/// `a · b`, element by element, b repeated over the leading dimensions of a.
pub fn mul(g: &mut Graph, a: Var, b: Var) -> Var {
    g.apply(Binary { function: Function::Mul }, &[a, b])
}

/// Cases of the op table.
pub fn cases() -> Vec<Case> {
    let shapes: [(&[usize], &[usize]); 10] = [
        (&[1], &[1]),
        (&[7], &[1]),
        (&[257], &[257]),
        (&[2, 3, 8], &[8]),
        (&[5, 7, 11, 13], &[11, 13]),
        (&[5, 7, 11, 12], &[1, 1, 11, 12]),
        (&[3, 850, 4], &[1, 850, 4]),
        (&[1, 1, 1, 1028], &[1, 1, 1, 1028]),
        (&[2, 1, 3], &[2, 1, 3]),
        (&[1021, 1], &[1]),
    ];
    let mut cases = Vec::new();
    for (i, (a, b)) in shapes.into_iter().enumerate() {
        for function in [Function::Add, Function::Sub, Function::Mul] {
            let (a, b) = (noise(a, i as u64), noise(b, 100 + i as u64));
            let case = Case::new(Binary { function }, vec![a, b], Tolerance::of(1e-6));
            let mut mixed = case.in_f16(Tolerance::of(2e-3));
            mixed.inputs[1] = case.inputs[1].clone();
            cases.extend([case.in_f16(Tolerance::of(2e-3)), mixed, case]);
        }
    }
    // More than 65,535 workgroups of the scalar kernel.
    let large = vec![noise([65_535 * 256 / 3 + 100, 3], 1), noise([3], 2)];
    cases.push(Case::new(Binary { function: Function::Mul }, large, Tolerance::of(1e-6)));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trailing_dimensions_repeat() {
        let fits = |a: &[usize], b: &[usize]| repeats(Shape::new(a), Shape::new(b));
        assert!(fits(&[2, 3, 4], &[4]) && fits(&[2, 3, 4], &[3, 4]) && fits(&[2, 3, 4], &[1, 3, 4]) && fits(&[2, 3, 4], &[1]));
        assert!(!fits(&[2, 3, 4], &[2]) && !fits(&[2, 3, 4], &[2, 3, 1]) && !fits(&[2, 3, 4], &[2, 1, 4]) && !fits(&[4], &[1, 4]));
    }

    #[test]
    #[should_panic(expected = "f32[2, 3], f32[2]")]
    fn a_misfit_names_both_types() {
        let mut g = Graph::new();
        let (a, b) = (g.input("a", TensorType::f32([2, 3])), g.input("b", TensorType::f32([2])));
        add(&mut g, a, b);
    }
}
