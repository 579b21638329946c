//! The f16 copies of parameters that lie in one arena, made by one launch instead of one a parameter.

use super::rebuild::Rebuild;
use super::{Arena, Graph, Layout, Links, Node, Origin, Var};
use crate::Result;
use crate::gpu::Gpu;
use crate::kernels::unary::{self, Function, Unary};
use crate::tensor::{DType, TensorType};
use std::any::Any;
use std::sync::Arc;

/// The input that is the whole arena, the output that is its copy, and before the name of a parameter: its part of the copy.
const ARENA: &str = "arena";
const COPY: &str = "arena.half";
const HALF: &str = "half.";

/// An arena's copy in f16.
#[derive(Debug)]
pub struct Halves(Arena);

impl Halves {
    /// Room for the copy of an arena of parameters.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] when the device cannot give it.
    pub fn new(gpu: &Gpu, of: &Layout) -> Result<Self> {
        Ok(Self(Arena::new(gpu, "weights in f16", &Arc::new(of.in_halves()))?))
    }

    /// What a graph that [`Halves::share`] gave is linked to.
    pub fn links(&self, arena: &Arena) -> Links {
        let mut links = self.0.links(HALF);
        links.extend([(ARENA.to_owned(), arena.whole()), (COPY.to_owned(), self.0.whole())]);
        links
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.0.layout().bytes()
    }

    /// Whether a value of this name is the arena, its copy or a part of that.
    pub fn is_linked(name: &str) -> bool {
        [ARENA, COPY].contains(&name) || name.starts_with(HALF)
    }

    /// The same graph, in which the first node casts the whole arena, and the casts of its parameters are gone.
    pub fn share(graph: &Graph, arena: &Layout) -> Graph {
        let mut rebuild = Rebuild::new(graph);
        if !graph.nodes().iter().any(|node| cast_of(graph, node, arena).is_some()) {
            return graph.clone();
        }
        let whole = rebuild.to.input(ARENA, TensorType::f32([arena.bytes() / 4]));
        let copy = unary::cast(&mut rebuild.to, whole, DType::F16);
        for node in graph.nodes() {
            match cast_of(graph, node, arena) {
                Some(name) => {
                    let half = rebuild.to.input(&format!("{HALF}{name}"), graph.ty(node.outputs[0]));
                    rebuild.stand_for(node.outputs[0], half);
                }
                None => rebuild.copy(node),
            }
        }
        let mut shared = rebuild.finish();
        shared.output(COPY, copy);
        shared
    }
}

/// The parameter of the arena that a node casts to f16, if that is what it does.
fn cast_of<'a>(graph: &'a Graph, node: &Node, arena: &Layout) -> Option<&'a str> {
    let unary: &Unary = (&*node.op as &dyn Any).downcast_ref()?;
    let of: Var = node.inputs[0];
    match &graph.values()[of.0].origin {
        Origin::Param(name) if unary.function == Function::Identity && unary.to == DType::F16 && arena.contains(name) => Some(name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Values, interpret};
    use crate::kernels::binary;
    use crate::tensor::Host;

    #[test]
    fn parameters_of_the_arena_are_cast_once_and_others_where_they_were() {
        let ty = |n: usize| TensorType::f32([n]);
        let arena = Layout::new([("a".to_owned(), ty(3)), ("b".to_owned(), ty(3))]);
        let mut g = Graph::new();
        let casts = ["a", "b", "c"].map(|name| {
            let param = g.param(name, ty(3));
            unary::cast(&mut g, param, DType::F16)
        });
        let sum = binary::add(&mut g, casts[0], casts[1]);
        let sum = binary::add(&mut g, sum, casts[2]);
        g.output("sum", sum);
        let shared = Halves::share(&g, &arena);
        assert_eq!(shared.nodes().len(), 4, "a cast of all, one of `c`, two sums");
        let half = |v: f32| Host::f32([3], vec![v; 3]).cast(DType::F16);
        let inputs = Values::from([
            (ARENA.to_owned(), Host::zeros(ty(arena.bytes() / 4))),
            ("half.a".to_owned(), half(1.0)),
            ("half.b".to_owned(), half(2.0)),
        ]);
        let params = Values::from([("c".to_owned(), Host::f32([3], vec![4.0; 3]))]);
        assert_eq!(interpret(&shared, &inputs, &params)["sum"].to_f32().as_ref(), [7.0; 3]);
        assert_eq!(Halves::share(&g, &Layout::default()).nodes().len(), 5);
    }

    #[test]
    fn a_part_of_the_copy_lies_where_its_parameter_does() {
        let ty = |n: usize| TensorType::f32([n]);
        let arena = Layout::new([("a".to_owned(), ty(3)), ("b".to_owned(), ty(1000)), ("c".to_owned(), ty(7))]);
        let halves = arena.in_halves();
        assert_eq!(halves.bytes() * 2, arena.bytes());
        for ((name, at, full), (same, half, ty)) in arena.places().zip(halves.places()) {
            assert_eq!((name, at, full.shape), (same, 2 * half, ty.shape));
        }
    }
}
