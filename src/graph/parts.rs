//! In training, the last step of many gradients by a few launches: sums over parts that a product, a norm or a first sum has left in rows.
//! The parts lie in one arena, in turn: when it is full, one launch adds up all that it holds, into the arena of gradients, and it is
//! filled anew.

use super::quantizers::find::Outputs;
use super::rebuild::{Rebuild, source};
use super::{Arena, Graph, Layout, Links, Node, Origin, Slice, Var};
use crate::Result;
use crate::gpu::Gpu;
use crate::kernels::arena_sums::{ArenaSums, SumBlock};
use crate::kernels::reduce::ColumnSums;
use crate::tensor::{DType, TensorType};
use std::collections::{HashMap, HashSet};
use wgpu::{Buffer, BufferUsages};

/// Inputs that are the arena of parts, and that of gradients; and before a number: the parts of one gradient, an output.
const ALL_PARTS: &str = "parts";
const GRADIENTS: &str = "parts.gradients";
const PARTS: &str = "parts.";

/// Bytes of parts that are added up at once: a launch costs little beside them then. A sum of half as many stays on its own.
const CAPACITY: usize = 64 << 20;
/// Bytes between the beginnings of parts, as every device allows them as an offset of a binding.
const ALIGN: usize = 256;

/// A graph whose gradients share their last sums.
#[derive(Debug)]
pub struct Parts {
    /// What is left to run.
    pub graph: Graph,
    /// Offset and size of the parts of each gradient, in bytes.
    places: Vec<(usize, usize)>,
    bytes: usize,
}

/// The arena behind it.
#[derive(Clone, Debug)]
pub struct PartsArena {
    buffer: Buffer,
    places: Vec<(usize, usize)>,
}

impl PartsArena {
    /// Room for a graph; that of another graph will do when it is large enough: they never run at the same time.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] when the device cannot give it.
    pub fn new<'a>(gpu: &Gpu, of: &Parts, mut others: impl Iterator<Item = &'a Self>) -> Result<Self> {
        let same = others.find(|other| other.buffer.size() as usize >= of.bytes).map(|other| other.buffer.clone());
        let buffer = same.map_or_else(|| gpu.buffer("parts of gradients", of.bytes, BufferUsages::STORAGE), Ok)?;
        Ok(Self { buffer, places: of.places.clone() })
    }

    /// What the graph is linked to, with the arena of gradients.
    pub fn links(&self, gradients: &Arena) -> Links {
        let slice = |offset: usize, bytes: usize| Slice { buffer: self.buffer.clone(), offset: offset as u64, size: bytes.max(16) as u64 };
        let parts = self.places.iter().enumerate().map(|(i, &(offset, bytes))| (format!("{PARTS}{i}"), slice(offset, bytes)));
        let whole = [(ALL_PARTS.to_owned(), slice(0, self.buffer.size() as usize)), (GRADIENTS.to_owned(), gradients.whole())];
        parts.chain(whole).collect()
    }

    /// Bytes on the device of some that may share.
    pub fn bytes<'a>(all: impl Iterator<Item = &'a Self>) -> usize {
        all.map(|a| (&a.buffer, a.buffer.size() as usize)).collect::<HashMap<_, _>>().into_values().sum()
    }
}

impl Parts {
    /// Whether a value of this name lies in the arena, or is that of gradients.
    pub fn is_linked(name: &str) -> bool {
        name == ALL_PARTS || name.starts_with(PARTS)
    }

    /// Bytes of the arena.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The same graph with shared sums, for gradients that are outputs under the names of parameters behind `prefix`, and lie in an arena.
    pub fn share(graph: &Graph, arena: &Layout, prefix: &str) -> Self {
        let sums = sums_of(graph, arena, prefix);
        let Some(last) = sums.iter().map(|sum| sum.node).max() else {
            return Self { graph: graph.clone(), places: Vec::new(), bytes: 0 };
        };
        let gone: HashSet<usize> = sums.iter().map(|sum| sum.node).collect();
        let of_parts: HashMap<Var, &Sum> = sums.iter().map(|sum| (sum.of, sum)).collect();
        let mut filling = Filling::new(graph, &sums, arena);
        for (index, node) in graph.nodes().iter().enumerate() {
            filling.place(node.outputs.iter().filter_map(|output| of_parts.get(output).copied()));
            if !gone.contains(&index) {
                filling.rebuild.copy(node);
            } else if index == last {
                filling.add_up();
            }
        }
        filling.finish(prefix, &sums)
    }
}

/// A node that adds up parts into a gradient.
struct Sum {
    node: usize,
    name: String,
    /// The parts.
    of: Var,
    /// What is to be done, if the parts were at the beginning.
    block: SumBlock,
}

fn sums_of(graph: &Graph, arena: &Layout, prefix: &str) -> Vec<Sum> {
    let outputs = Outputs::new(graph, arena, prefix);
    let sum = |node: &Node| {
        let (index, _, &ColumnSums { parts, scale, to }) = source(graph, node.outputs[0])?;
        let (name, of) = (outputs.only(node.outputs[0])?, graph.root(node.inputs[0]));
        let (shape, place) = (graph.shape(node.inputs[0]), arena.place(name)?);
        let is_own = outputs.readers.get(&of) == Some(&1) && matches!(graph.values()[of.0].origin, Origin::Node { .. });
        let block = SumBlock { first: 0, stride: shape.last(), parts: shape.rows(), count: shape.last(), scale, to: place };
        let fits = block.fits() && parts == 1 && to == DType::F32 && graph.ty(of).dtype == DType::F32;
        let fits = fits && graph.storage(of) == of && graph.ty(of).bytes() <= CAPACITY / 2;
        (is_own && fits).then(|| Sum { node: index, name: name.to_owned(), of, block })
    };
    graph.nodes().iter().filter_map(sum).collect()
}

/// The new graph, and what of the arena is filled at this point of it.
struct Filling<'a> {
    rebuild: Rebuild<'a>,
    places: Vec<(usize, usize)>,
    /// The values that lie there.
    parts: Vec<Var>,
    pending: Vec<SumBlock>,
    filled: usize,
    bytes: usize,
    /// The arenas of gradients and of parts, as inputs.
    arenas: [Var; 2],
}

impl<'a> Filling<'a> {
    fn new(graph: &'a Graph, sums: &[Sum], arena: &Layout) -> Self {
        let mut rebuild = Rebuild::new(graph);
        let all: usize = sums.iter().map(|sum| graph.ty(sum.of).bytes().next_multiple_of(ALIGN)).sum();
        let bytes = all.min(CAPACITY);
        let arenas =
            [(GRADIENTS, arena.bytes()), (ALL_PARTS, bytes)].map(|(name, bytes)| rebuild.to.input(name, TensorType::f32([bytes / 4])));
        Self { rebuild, places: Vec::new(), parts: Vec::new(), pending: Vec::new(), filled: 0, bytes, arenas }
    }

    /// Finds places for the parts that the next node gives.
    fn place<'s>(&mut self, sums: impl Iterator<Item = &'s Sum>) {
        let sums: Vec<&Sum> = sums.collect();
        let size = |sum: &Sum| self.rebuild.from.ty(sum.of).bytes();
        let sizes: Vec<usize> = sums.iter().map(|sum| size(sum)).collect();
        if self.filled + sizes.iter().map(|bytes| bytes.next_multiple_of(ALIGN)).sum::<usize>() > self.bytes {
            self.add_up();
        }
        for (sum, bytes) in sums.into_iter().zip(sizes) {
            self.places.push((self.filled, bytes));
            self.parts.push(sum.of);
            self.pending.push(SumBlock { first: self.filled / 4, ..sum.block });
            self.filled += bytes.next_multiple_of(ALIGN);
        }
    }

    /// Adds a node for all parts that are there.
    fn add_up(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let table = self.rebuild.to.constant(SumBlock::table(&self.pending));
        self.rebuild.to.apply(ArenaSums, &[self.arenas[0], self.arenas[1], table]);
        self.pending.clear();
        self.filled = 0;
    }

    fn finish(mut self, prefix: &str, sums: &[Sum]) -> Parts {
        let parts: Vec<Var> = self.parts.iter().map(|&of| self.rebuild.var(of)).collect();
        let mut graph = self.rebuild.finish_without(&sums.iter().map(|sum| format!("{prefix}{}", sum.name)).collect());
        parts.into_iter().enumerate().for_each(|(i, var)| graph.output(&format!("{PARTS}{i}"), var));
        Parts { graph, places: self.places, bytes: self.bytes }
    }
}
