//! Build once, derive the backward, rewrite, compile, replay.
//!
//! ```text
//! model code ──> Graph ──backward──> Graph ──fold, fuse──> Graph ──Plan::compile──> Plan ──run──> outputs
//! ```
//!
//! A [`Graph`] is a tape: a list of nodes in the order they were made, each an [`Op`] on earlier values. A [`Var`] is an
//! index into its values and free to copy. Shapes never depend on data. The same graph runs on the CPU through each op's
//! twin ([`interpret`]) and on a GPU through a [`Plan`].

mod arena;
mod attend;
mod backward;
mod batch;
pub mod check;
mod compile;
mod fold;
mod fuse;
mod halves;
mod interpret;
mod join;
mod lookup;
mod memory;
mod norm;
mod op;
mod pad;
mod params;
mod parts;
mod plan;
mod pool;
mod profile;
mod quantizers;
mod rebuild;
mod recode;
mod requantize;
mod saved;
mod second;
mod skip;
mod within;

pub use arena::{Arena, Layout};
pub use fold::{Folded, fold};
pub use fuse::{fuse, fuse_for};
pub use halves::Halves;
pub use interpret::{Values, interpret};
pub use memory::Needs;
pub use op::{Io, Op, ids, node_name};
pub use params::Params;
pub use parts::{Parts, PartsArena};
pub use plan::{Encoded, Links, MemoryReport, Plan, PlanOptions, Scratch, Slice};
pub use profile::{StepTime, least_step_us};
pub use quantizers::{QuantizerArenas, Quantizers};
pub use within::within;

use crate::tensor::{Host, Shape, TensorType};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Bytes of which every part of a value begins at a multiple: what WebGPU wants of parts of buffers that are bound.
pub(crate) const PART_BYTES: usize = 256;

/// A value of a [`Graph`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Var(pub(crate) usize);

/// Where a value comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Written by the host between runs.
    Input(String),
    /// A parameter of the model, by its PyTorch name.
    Param(String),
    /// Known while the graph is built.
    Constant(Arc<Host>),
    /// The `output`-th output of a node.
    Node {
        /// Index of the node.
        node: usize,
        /// Which of its outputs.
        output: usize,
    },
    /// The same elements under another shape, or some of them: costs nothing.
    View {
        /// Of what.
        of: Var,
        /// Which of its elements is the first.
        first: usize,
    },
}

/// A value: its type and where it comes from.
#[derive(Clone, Debug)]
pub struct Value {
    /// Shape and element type.
    pub ty: TensorType,
    /// Where it comes from.
    pub origin: Origin,
}

/// An op with its wires.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it computes.
    pub op: Arc<dyn Op>,
    /// On what.
    pub inputs: Vec<Var>,
    /// Into what.
    pub outputs: Vec<Var>,
    /// Where in the model it was made: `transformer.encoder.layers.0`.
    pub scope: String,
    /// Which part of a run it belongs to: see [`Graph::next_segment`].
    pub segment: usize,
}

/// A program on tensors: nodes in the order of execution.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    values: Vec<Value>,
    nodes: Vec<Node>,
    outputs: BTreeMap<String, Var>,
    params: BTreeMap<String, Var>,
    segment: usize,
    scope: Vec<String>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// A value that the host writes between runs.
    pub fn input(&mut self, name: &str, ty: TensorType) -> Var {
        self.value(ty, Origin::Input(name.to_owned()))
    }

    /// A parameter by its full name; asking twice gives the same value.
    ///
    /// # Panics
    /// When asked again with another type.
    #[track_caller]
    pub fn param(&mut self, name: &str, ty: TensorType) -> Var {
        if let Some(&known) = self.params.get(name) {
            assert_eq!(self.ty(known), ty, "parameter {name} is {}, asked for as {ty}", self.ty(known));
            return known;
        }
        let var = self.value(ty, Origin::Param(name.to_owned()));
        self.params.insert(name.to_owned(), var);
        var
    }

    /// A value that is known now.
    pub fn constant(&mut self, host: Host) -> Var {
        self.value(host.ty(), Origin::Constant(Arc::new(host)))
    }

    /// Adds a node and returns its first output.
    #[track_caller]
    pub fn apply(&mut self, op: impl Op, inputs: &[Var]) -> Var {
        self.apply_all(Arc::new(op), inputs)[0]
    }

    /// Adds a node and returns all its outputs.
    ///
    /// # Panics
    /// When the op refuses the inputs' types, with the scope it happened in.
    #[track_caller]
    pub fn apply_all(&mut self, op: Arc<dyn Op>, inputs: &[Var]) -> Vec<Var> {
        let types = self.types(inputs);
        let node = self.nodes.len();
        let outputs = op.outputs(&types).into_iter().enumerate();
        let outputs: Vec<Var> = outputs.map(|(output, ty)| self.value(ty, Origin::Node { node, output })).collect();
        let scope = self.scope.join(".");
        self.nodes.push(Node { op, inputs: inputs.to_vec(), outputs: outputs.clone(), scope, segment: self.segment });
        outputs
    }

    /// The same elements under another shape.
    ///
    /// # Panics
    /// When the number of elements differs.
    #[track_caller]
    pub fn reshape(&mut self, x: Var, shape: impl AsRef<[usize]>) -> Var {
        let (from, shape) = (self.ty(x), Shape::new(shape));
        assert_eq!(from.shape.len(), shape.len(), "reshape: {from} has {} elements, {shape} has {}", from.shape.len(), shape.len());
        if from.shape == shape { x } else { self.value(TensorType { shape, ..from }, Origin::View { of: x, first: 0 }) }
    }

    /// As many neighbouring elements as a shape has, from the `first` on.
    ///
    /// # Panics
    /// When there are fewer, or they do not begin at a multiple of [`PART_BYTES`].
    #[track_caller]
    pub(crate) fn part(&mut self, x: Var, first: usize, shape: impl AsRef<[usize]>) -> Var {
        let (from, shape) = (self.ty(x), Shape::new(shape));
        let fits = first + shape.len() <= from.shape.len() && (first * from.dtype.size()).is_multiple_of(PART_BYTES);
        assert!(fits, "part: {from} has no {shape} at {first}");
        if shape.len() == from.shape.len() {
            return self.reshape(x, shape.dims());
        }
        self.value(TensorType { shape, ..from }, Origin::View { of: x, first })
    }

    /// Ends a segment: nodes made from here on run only after the host has had its turn. It reads the outputs of the
    /// segments so far, writes inputs, and goes on (a training step matches predictions with objects there).
    pub fn next_segment(&mut self) {
        self.segment += 1;
    }

    /// Names a value as a result of the graph.
    pub fn output(&mut self, name: &str, var: Var) {
        self.outputs.insert(name.to_owned(), var);
    }

    /// Runs `build` with a name pushed on the scope, which prefixes what is made inside it.
    pub fn scoped<T>(&mut self, name: &str, build: impl FnOnce(&mut Self) -> T) -> T {
        self.enter(name);
        let result = build(self);
        self.leave();
        result
    }

    /// Pushes a name on the scope.
    pub(crate) fn enter(&mut self, name: &str) {
        self.scope.push(name.to_owned());
    }

    /// Takes the last name off the scope.
    pub(crate) fn leave(&mut self) {
        self.scope.pop();
    }

    /// The full name of something called `name` in the current scope.
    pub(crate) fn path(&self, name: &str) -> String {
        self.scope.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join(".")
    }

    /// The name of the current scope.
    pub(crate) fn scope(&self) -> String {
        self.scope.join(".")
    }

    /// Shape and element type of a value.
    pub fn ty(&self, var: Var) -> TensorType {
        self.values[var.0].ty
    }

    /// Shape of a value.
    pub fn shape(&self, var: Var) -> Shape {
        self.ty(var).shape
    }

    /// The types of several values.
    pub fn types(&self, vars: &[Var]) -> Vec<TensorType> {
        vars.iter().map(|&v| self.ty(v)).collect()
    }

    /// The nodes, in order of execution.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The values.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// Results by name.
    pub fn outputs(&self) -> &BTreeMap<String, Var> {
        &self.outputs
    }

    /// Parameters by name.
    pub fn params(&self) -> &BTreeMap<String, Var> {
        &self.params
    }

    /// Inputs by name, in the order they were made.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, Var)> {
        self.values.iter().enumerate().filter_map(|(i, value)| match &value.origin {
            Origin::Input(name) => Some((name.as_str(), Var(i))),
            _ => None,
        })
    }

    /// The value that holds the elements: views followed to their root.
    pub fn root(&self, var: Var) -> Var {
        match self.values[var.0].origin {
            Origin::View { of, .. } => self.root(of),
            _ => var,
        }
    }

    /// Where in its root a value begins, in elements.
    pub(crate) fn first(&self, var: Var) -> usize {
        match self.values[var.0].origin {
            Origin::View { of, first } => first + self.first(of),
            _ => 0,
        }
    }

    /// The value whose buffer holds the elements: views, and values updated in place, followed to where they began.
    pub(crate) fn storage(&self, var: Var) -> Var {
        self.place(var).0
    }

    /// [`Graph::storage`], and where in it the elements begin, in bytes.
    pub(crate) fn place(&self, var: Var) -> (Var, usize) {
        let (root, offset) = (self.root(var), self.first(var) * self.ty(var).dtype.size());
        let Origin::Node { node, output } = self.values[root.0].origin else { return (root, offset) };
        let node = &self.nodes[node];
        let Some((input, _)) = node.op.in_place().into_iter().find(|&(_, o)| o == output) else { return (root, offset) };
        let (storage, of_input) = self.place(node.inputs[input]);
        (storage, of_input + offset)
    }

    fn value(&mut self, ty: TensorType, origin: Origin) -> Var {
        self.values.push(Value { ty, origin });
        Var(self.values.len() - 1)
    }
}

/// The graph as text: one line a node, with scope, types and wires.
impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, node) in self.nodes.iter().enumerate() {
            let from = |v| if self.first(v) > 0 { format!("+{}", self.first(v)) } else { String::new() };
            let wire = |&v: &Var| format!("%{}{} {}", self.root(v).0, from(v), self.ty(v));
            let wires = |vars: &[Var]| vars.iter().map(wire).collect::<Vec<_>>().join(", ");
            writeln!(f, "{i:4} {:10} {} <- {}  {}", node.op.name(), wires(&node.outputs), wires(&node.inputs), node.scope)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_views_of_parts_begin_where_they_begin_in_the_root() {
        let mut g = Graph::new();
        let x = g.input("x", TensorType::f32([4, 64]));
        let half = g.part(x, 128, [2, 64]);
        let flat = g.reshape(half, [128]);
        let last = g.part(flat, 64, [8, 8]);
        assert_eq!((g.root(last), g.first(last), g.place(last)), (x, 192, (x, 768)));
        assert_eq!(g.part(x, 0, [256]), Var(last.0 + 1), "all of it is a view");
    }

    #[test]
    #[should_panic(expected = "has no [64] at 32")]
    fn parts_that_begin_where_none_can_be_bound_are_refused() {
        let mut g = Graph::new();
        let x = g.input("x", TensorType::f32([4, 64]));
        g.part(x, 32, [64]);
    }
}
