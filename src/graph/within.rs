//! A rewrite for inference that gives time for memory: the first layers of a network, whose values are the largest, run on parts of the batch,
//! one after the other, and what the rest reads of them is put together.
//!
//! The parts are layers of the same network's graph for a smaller batch, as far as both graphs are alike. Pictures of a batch know nothing of
//! each other, so that codes are the same; floats are too, but for kernels that are chosen by size.

use super::memory::{Needs, lives};
use super::rebuild::Rebuild;
use super::{Graph, Node, Origin, PART_BYTES, Var};
use crate::kernels::concat::{concat, slice};
use std::borrow::Cow;
use std::collections::HashMap;

impl Needs {
    /// What a plan of the graph takes alone, in bytes.
    fn alone(graph: &Graph) -> usize {
        Self::of(graph, &|_| false).total()
    }
}

/// A folded graph of `batch` pictures in as few parts, of as few layers, as let its plan take no more bytes than given; the graph itself where
/// that takes no more. `of` gives the same network's folded graph for fewer pictures.
///
/// # Errors
/// The fewest bytes that it could take.
pub fn within(graph: &Graph, batch: usize, bytes: usize, of: impl Fn(usize) -> Graph) -> Result<Cow<'_, Graph>, usize> {
    let mut least = Needs::alone(graph);
    if least <= bytes {
        return Ok(Cow::Borrowed(graph));
    }
    let cuts = cuts(graph);
    for parts in (2..=batch).filter(|parts| batch.is_multiple_of(*parts)) {
        let small = of(batch / parts);
        let pair = Pair { graph, small: &small, parts };
        let alike = pair.alike();
        for graph in cuts.iter().take_while(|&&cut| cut < alike).filter_map(|&cut| pair.in_parts(cut)) {
            let needed = Needs::alone(&graph);
            if needed <= bytes {
                return Ok(Cow::Owned(graph));
            }
            least = least.min(needed);
        }
    }
    Err(least)
}

/// Nodes behind which fewer bytes are alive than before and behind the next: ends of layers, where little has to be put together.
fn cuts(graph: &Graph) -> Vec<usize> {
    let lives = lives(graph);
    let behind = |node: usize| -> usize {
        let over = lives.iter().filter(|(_, life)| life.from <= node && node < life.to);
        over.map(|(&var, _)| graph.ty(var).bytes()).sum()
    };
    let behind: Vec<usize> = (0..graph.nodes().len()).map(behind).collect();
    (1..behind.len().saturating_sub(1)).filter(|&i| behind[i] < behind[i - 1] && behind[i] <= behind[i + 1]).collect()
}

/// A network's graph for a batch, and that for one of its parts.
#[derive(Clone, Copy)]
struct Pair<'a> {
    graph: &'a Graph,
    small: &'a Graph,
    parts: usize,
}

impl Pair<'_> {
    /// How many of the first nodes do to a part what they do to the batch.
    fn alike(self) -> usize {
        let nodes = self.graph.nodes().iter().zip(self.small.nodes());
        nodes.take_while(|(whole, part)| self.is_alike(whole, part)).count()
    }

    fn is_alike(self, whole: &Node, part: &Node) -> bool {
        let inputs = whole.inputs.iter().zip(&part.inputs).all(|(&whole, &part)| self.is_same(whole, part));
        let outputs = whole.outputs.iter().zip(&part.outputs).all(|(&whole, &part)| self.is_part(whole, part));
        let sizes = [whole, part].map(|node| [node.inputs.len(), node.outputs.len()]);
        whole.op.name() == part.op.name() && sizes[0] == sizes[1] && inputs && outputs
    }

    /// Whether one value is what the other is of a part, or both are the same parameter.
    fn is_same(self, whole: Var, part: Var) -> bool {
        let origin = |graph: &Graph, var: Var| graph.values()[graph.root(var).0].origin.clone();
        match (origin(self.graph, whole), origin(self.small, part)) {
            (Origin::Param(a), Origin::Param(b)) => a == b && self.graph.ty(whole) == self.small.ty(part),
            (Origin::Input(a), Origin::Input(b)) => a == b && self.is_part(whole, part),
            (Origin::Node { node: a, output: i }, Origin::Node { node: b, output: j }) => [a, i] == [b, j] && self.is_part(whole, part),
            _ => false,
        }
    }

    fn is_part(self, whole: Var, part: Var) -> bool {
        let [of_whole, of_part] = [(self.graph, whole), (self.small, part)].map(|(g, v)| [g.shape(v).len(), g.first(v)]);
        self.graph.ty(whole).dtype == self.small.ty(part).dtype && of_whole == of_part.map(|n| n * self.parts)
    }

    /// The graph with all nodes up to `last` once for each part; none where what is put together is no whole part of the batch.
    fn in_parts(self, last: usize) -> Option<Graph> {
        let mut rebuild = Rebuild::new(self.graph);
        let made: Vec<HashMap<Var, Var>> = (0..self.parts).map(|part| self.part(&mut rebuild, part, last)).collect::<Option<_>>()?;
        let rest = &self.graph.nodes()[last + 1..];
        let read: Vec<Var> = rest.iter().flat_map(|node| &node.inputs).chain(self.graph.outputs().values()).copied().collect();
        for var in read {
            self.join(&mut rebuild, &made, last, var)?;
        }
        for node in rest {
            rebuild.copy(node);
        }
        Some(rebuild.finish())
    }

    /// Adds the nodes of a part; gives what stands for each value of the small graph.
    fn part(self, rebuild: &mut Rebuild<'_>, part: usize, last: usize) -> Option<HashMap<Var, Var>> {
        let mut made = HashMap::new();
        for node in &self.small.nodes()[..=last] {
            let inputs = node.inputs.iter().map(|&v| self.var(rebuild, &mut made, part, v)).collect::<Option<Vec<Var>>>()?;
            rebuild.to.segment = node.segment;
            let outputs = rebuild.add(&node.scope, node.op.clone(), &inputs);
            made.extend(node.outputs.iter().copied().zip(outputs));
        }
        Some(made)
    }

    /// What stands for a value of the small graph in a part.
    fn var(self, rebuild: &mut Rebuild<'_>, made: &mut HashMap<Var, Var>, part: usize, var: Var) -> Option<Var> {
        if let Some(&known) = made.get(&var) {
            return Some(known);
        }
        let value = &self.small.values()[var.0];
        let dims = value.ty.shape.dims();
        let new = match &value.origin {
            Origin::Param(name) => rebuild.to.param(name, value.ty),
            Origin::Input(name) => {
                let whole = self.graph.inputs().find(|(n, _)| n == name)?.1;
                let whole = rebuild.var(whole);
                // Slices are of whole words.
                value.ty.bytes().is_multiple_of(4).then(|| slice(&mut rebuild.to, whole, part * dims[0], dims[0]))?
            }
            Origin::View { of, first } => {
                let of = self.var(rebuild, made, part, *of)?;
                rebuild.to.part(of, *first, dims)
            }
            Origin::Constant(_) | Origin::Node { .. } => return None,
        };
        made.insert(var, new);
        Some(new)
    }

    /// Puts together what a node behind the `last` of the parts reads.
    fn join(self, rebuild: &mut Rebuild<'_>, made: &[HashMap<Var, Var>], last: usize, var: Var) -> Option<()> {
        let (root, ty) = (self.graph.root(var), self.graph.ty(var));
        let Origin::Node { node, output } = self.graph.values()[root.0].origin else { return Some(()) };
        if node > last {
            return Some(());
        }
        let [rows, first] = [ty.shape.dims()[0], self.graph.first(var)];
        let is_whole = [rows, first].iter().all(|n| n.is_multiple_of(self.parts));
        let bytes = [first, ty.shape.len()].map(|n| n / self.parts * ty.dtype.size());
        // Parts begin where they can be bound; codes are put together in words.
        (is_whole && bytes[0].is_multiple_of(PART_BYTES) && bytes[1].is_multiple_of(4)).then_some(())?;
        let of_part = self.small.nodes()[node].outputs[output];
        let shape = ty.shape.with_first(rows / self.parts);
        let each: Vec<Var> = made.iter().map(|made| rebuild.to.part(made[&of_part], first / self.parts, shape.dims())).collect();
        let whole = concat(&mut rebuild.to, &each);
        rebuild.stand_for(var, whole);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::noise;
    use crate::graph::{Values, interpret};
    use crate::kernels::binary;
    use crate::kernels::conv::{Window, conv2d};
    use crate::kernels::normalize::{ROWS, normalize};
    use crate::kernels::position::test_sizes;
    use crate::kernels::unary::relu;
    use crate::tensor::{DType, Host, TensorType};

    const BATCH: usize = 6;

    /// Two convolutions of pictures, the first one's result the largest, then a sum with numbers of each picture, of which there are no parts.
    fn graph(batch: usize) -> Graph {
        let mut g = Graph::new();
        let bytes = g.input("bytes", TensorType::new([batch, 16, 24, 3], DType::I8));
        let sizes = g.input("sizes", TensorType::new([batch, 2], DType::U32));
        let table = g.param("table", TensorType::f32([ROWS, 3]));
        let (x, _) = normalize(&mut g, bytes, sizes, table);
        let window = Window { padding: 1, ..Window::default() };
        let layer = |g: &mut Graph, name: &str, x: Var, n: usize| {
            let w = g.param(name, TensorType::f32([n, 3, 3, g.shape(x).last()]));
            let y = conv2d(g, x, w, window);
            relu(g, y)
        };
        let large = layer(&mut g, "a", x, 64);
        let y = layer(&mut g, "b", large, 16);
        let flat = g.reshape(y, [batch, 16 * 24 * 16]);
        let of_pictures = g.param("of_pictures", TensorType::f32([batch, 16 * 24 * 16]));
        let y = binary::add(&mut g, flat, of_pictures);
        g.output("y", y);
        g
    }

    #[test]
    fn parts_of_a_batch_take_less_memory_and_give_the_same() {
        let g = graph(BATCH);
        let whole = Needs::alone(&g);
        let least = within(&g, BATCH, 1, graph).expect_err("a byte is too little");
        assert!(least < whole * 2 / 3, "{least} of {whole}");
        let parts = within(&g, BATCH, least, graph).expect("the least is enough");
        assert!(Needs::alone(&parts) == least && parts.nodes().len() > g.nodes().len());
        let bytes = noise([BATCH, 16, 24, 3], 1).to_f32().iter().map(|v| (v * 128.0).floor() as i8).collect();
        let inputs: Values =
            [("bytes".to_owned(), Host::i8([BATCH, 16, 24, 3], bytes)), ("sizes".to_owned(), test_sizes(BATCH, 16, 24))].into();
        let params: Values = g.params().iter().map(|(name, &var)| (name.clone(), noise(g.shape(var).dims(), 2))).collect();
        let [expected, found] = [&g, &*parts].map(|g| interpret(g, &inputs, &params)["y"].clone());
        assert_eq!(expected.as_bytes(), found.as_bytes());
    }

    #[test]
    fn what_fits_stays_as_it_is_and_fewer_parts_come_first() {
        let g = graph(BATCH);
        let whole = Needs::alone(&g);
        assert_eq!(within(&g, BATCH, whole, graph).expect("it fits").nodes().len(), g.nodes().len());
        let slices = |bytes| {
            let parts = within(&g, BATCH, bytes, graph).expect("it fits in parts");
            parts.nodes().iter().filter(|node| node.op.name() == "slice").count()
        };
        let least = within(&g, BATCH, 1, graph).expect_err("a byte is too little");
        assert_eq!([slices(whole - 1), slices(least)], [2 * 2, 2 * BATCH]);
    }

    #[test]
    fn a_batch_of_one_has_no_parts() {
        let g = graph(1);
        assert_eq!(within(&g, 1, 1, graph).unwrap_err(), Needs::alone(&g));
    }
}
