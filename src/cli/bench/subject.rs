//! An op on inputs of given types: what is timed.

use qdetr::graph::check::noise;
use qdetr::graph::{Graph, Op, node_name};
use qdetr::tensor::{DType, Host, TensorType};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Random numbers that are drawn for an input; a larger one repeats them.
const DRAWN: usize = 1 << 16;

/// An op on given inputs.
pub(crate) struct Subject {
    pub(crate) op: Arc<dyn Op>,
    pub(crate) types: Vec<TensorType>,
    /// Of a test case: its inputs.
    pub(super) data: Option<Vec<Host>>,
    /// How often it stands in which graph.
    pub(crate) uses: BTreeMap<&'static str, usize>,
}

impl Subject {
    /// Op, attributes and input types, as the names of the op table's cases.
    pub(crate) fn name(&self) -> String {
        node_name(&*self.op, &self.types)
    }

    pub(crate) fn outputs(&self) -> Vec<TensorType> {
        self.op.outputs(&self.types)
    }

    /// What to compute on.
    pub(crate) fn inputs(&self) -> Vec<Host> {
        let on_codes = self.types.iter().chain(&self.outputs()).any(|t| t.dtype == DType::I8);
        self.data.clone().unwrap_or_else(|| numbers(&self.types, on_codes))
    }

    pub(super) fn needs_f16(&self) -> bool {
        self.types.iter().chain(&self.outputs()).any(|t| t.dtype == DType::F16)
    }
}

/// Numbers to compute on: floats in [-1, 1), small codes, ones for what may be an index or a mask and, `on_codes`, states of quantizers
/// of some step and zero.
pub(super) fn numbers(types: &[TensorType], on_codes: bool) -> Vec<Host> {
    let draw = |(i, ty): (usize, &TensorType)| {
        let n = ty.shape.len();
        if ty.dtype == DType::U32 {
            return Host::u32(ty.shape.dims(), vec![1; n]);
        }
        if on_codes && ty.dtype == DType::F32 && ty.shape.rank() == 2 && ty.shape.last() == 4 {
            return Host::f32(ty.shape.dims(), [0.125, 8.0, -1.0, -1.0].into_iter().cycle().take(n).collect());
        }
        let drawn = noise([n.min(DRAWN)], i as u64).to_f32().into_owned();
        let all = drawn.iter().cycle().take(n);
        if ty.dtype == DType::I8 {
            return Host::i8(ty.shape.dims(), all.map(|v| (v * 7.0) as i8).collect());
        }
        Host::from_f32(*ty, all.copied().collect())
    };
    types.iter().enumerate().map(draw).collect()
}

/// Subjects, each once, in the order in which they came.
#[derive(Default)]
pub(crate) struct Collected {
    pub(crate) subjects: Vec<Subject>,
    /// Where a subject is in the list.
    known: BTreeMap<String, usize>,
}

impl Collected {
    /// Takes in the nodes of a graph; `new_ops` leaves out ops that were met before.
    pub(crate) fn graph(&mut self, name: &'static str, graph: &Graph, new_ops: bool) {
        let met: BTreeSet<&str> = self.subjects.iter().map(|s| s.op.name()).collect();
        for node in graph.nodes().iter().filter(|node| !new_ops || !met.contains(node.op.name())) {
            let subject = Subject { op: node.op.clone(), types: graph.types(&node.inputs), data: None, uses: BTreeMap::new() };
            let index = *self.known.entry(subject.name()).or_insert(self.subjects.len());
            if index == self.subjects.len() {
                self.subjects.push(subject);
            }
            *self.subjects[index].uses.entry(name).or_default() += 1;
        }
    }
}
