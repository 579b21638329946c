//! The contract of an op: everything about it in one place.

use super::{Graph, Var};
use crate::gpu::{Capabilities, Dispatch};
use crate::tensor::{Host, TensorType};
use std::any::Any;
use std::fmt::Debug;

/// The wires of a node whose gradient is asked for.
#[derive(Clone, Debug)]
pub struct Io {
    /// Inputs of the forward node.
    pub inputs: Vec<Var>,
    /// Outputs of the forward node, saved statistics among them.
    pub outputs: Vec<Var>,
}

/// One kind of node: its shapes, its CPU twin, its kernels and its gradient.
///
/// A node is one kernel launch. What its gradient needs of the forward is one of its outputs.
pub trait Op: Any + Debug + Send + Sync {
    /// The op's name: also the name of its kernel family and of its file.
    fn name(&self) -> &'static str;

    /// Types of the outputs.
    ///
    /// # Panics
    /// When the inputs do not fit, with the op's name and all types.
    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType>;

    /// The CPU twin: the same outputs, computed plainly in `f32` and rounded to the outputs' types.
    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host>;

    /// Every kernel that can compute this node on such a device, best first. The last one is portable unless the types
    /// themselves need more (f16).
    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], device: &Capabilities) -> Vec<Dispatch>;

    /// Nodes that compute the gradient of the inputs from the gradient of the outputs; `None` for an input without one.
    /// `wanted[i]` says whether anybody asks for the gradient of input `i`.
    fn gradient(&self, _graph: &mut Graph, _io: &Io, _d_outputs: &[Option<Var>], _wanted: &[bool]) -> Vec<Option<Var>> {
        panic!("{}: has no gradient", self.name())
    }

    /// Pairs `(input, output)` that share a buffer: the kernel updates the input in place. The input is bound only as that
    /// output; nodes after this one that read the old value see the new one, so there must be none.
    fn in_place(&self) -> Vec<(usize, usize)> {
        Vec::new()
    }

    /// Arithmetic operations, a multiply-add counted as two; 0 for ops that only move bytes.
    fn operations(&self, _inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        0
    }
}

/// What a node computes, as text: op, attributes and types of its inputs. The name of the op table's cases and of a tuned choice.
pub fn node_name(op: &dyn Op, inputs: &[TensorType]) -> String {
    format!("{} {op:?}({})", op.name(), ids(inputs))
}

/// The types of an op's inputs as text, for panics: `linear: …: f32[2, 3], f32[4, 5]`.
pub fn ids(inputs: &[TensorType]) -> String {
    inputs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
