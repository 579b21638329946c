//! What of a graph the shared launches take over.

use super::super::rebuild::{is, source};
use super::super::requantize::readers;
use super::super::{Graph, Layout, Node, Origin, Var};
use crate::kernels::epilogue::Activation;
use crate::kernels::integer::{IntegerScale, ScaleRow};
use crate::kernels::quantize::{
    CodeBlock, Dequantize, GradientRow, Levels, Quantize, QuantizeBackward, QuantizerState, QuantizerStateBackward, StateRow, WeightRow,
};
use crate::kernels::reduce::ColumnSums;
use crate::tensor::DType;
use std::collections::HashMap;

/// The state of a quantizer, computed from the arena.
pub(super) struct State {
    pub(super) node: usize,
    pub(super) state: Var,
    pub(super) rows: Vec<StateRow>,
}

pub(super) fn states_of(graph: &Graph, arena: &Layout) -> Vec<State> {
    let state = |(index, node): (usize, &Node)| {
        let op: &QuantizerState = is(node)?;
        let places: Vec<usize> = node.inputs.iter().map(|&v| place_of(graph, arena, v)).collect::<Option<_>>()?;
        let row = |i| StateRow { alpha: places[0] + i, zero_point: places.get(1).map(|zp| zp + i), levels: op.levels() };
        let state = node.outputs[0];
        Some(State { node: index, state, rows: (0..graph.shape(state).rows()).map(row).collect() })
    };
    graph.nodes().iter().enumerate().filter_map(state).collect()
}

/// The number of each state.
fn numbers(states: &[State]) -> HashMap<Var, usize> {
    states.iter().enumerate().map(|(i, s)| (s.state, i)).collect()
}

/// The parameter that a value is.
fn param_of(graph: &Graph, var: Var) -> Option<&str> {
    match &graph.values()[graph.root(var).0].origin {
        Origin::Param(name) => Some(name),
        _ => None,
    }
}

/// Where a parameter lies in the arena.
fn place_of(graph: &Graph, arena: &Layout, var: Var) -> Option<usize> {
    arena.place(param_of(graph, var)?)
}

/// A weight whose codes, and the values that these stand for, are computed from the arena.
pub(super) struct Weight {
    /// The nodes of its quantizer and of what gives the values.
    pub(super) nodes: Vec<usize>,
    pub(super) codes: Var,
    pub(super) values: Vec<Var>,
    /// The state that it has.
    pub(super) state: usize,
    /// All of it, as if it were one block.
    pub(super) block: CodeBlock,
}

/// The element type of all values: that which most of a network computes in. A few layers that answer in f32 keep nodes of their own.
pub(super) fn values_type(graph: &Graph) -> DType {
    let is_half = |node: &Node| is(node).is_some_and(|d: &Dequantize| d.to == DType::F16);
    if graph.nodes().iter().any(is_half) { DType::F16 } else { DType::F32 }
}

pub(super) fn weights_of(graph: &Graph, arena: &Layout, states: &[State]) -> Vec<Weight> {
    let of_state = numbers(states);
    let mut weights: Vec<Weight> = Vec::new();
    let mut of_codes: HashMap<Var, usize> = HashMap::new();
    let to = values_type(graph);
    for (index, node) in graph.nodes().iter().enumerate() {
        if let Some(quantizer) = is::<Quantize>(node) {
            let place = place_of(graph, arena, node.inputs[0]).zip(of_state.get(&graph.root(node.inputs[1])));
            let Some((source, &state)) = place else { continue };
            let count = graph.shape(node.inputs[0]).len();
            let inner = quantizer.run(graph.shape(node.inputs[0]), states[state].rows.len());
            // One run for each step size: rows of weights.
            if inner * states[state].rows.len() != count {
                continue;
            }
            of_codes.insert(node.outputs[0], weights.len());
            let block = CodeBlock { source, count, element: 0, inner, states: [0; 2], levels: quantizer.levels(), values: 0 };
            weights.push(Weight { nodes: vec![index], codes: node.outputs[0], values: vec![], state, block });
        } else if let Some(dequantizer) = is::<Dequantize>(node) {
            let Some(&weight) = of_codes.get(&graph.root(node.inputs[0])) else { continue };
            let weight = &mut weights[weight];
            let same = weight.block.inner == dequantizer.inner && of_state.get(&graph.root(node.inputs[1])) == Some(&weight.state);
            if same && dequantizer.to == to {
                weight.nodes.push(index);
                weight.values.push(node.outputs[0]);
            }
        }
    }
    weights
}

/// A scale and a shift that follow from such states, codes and parameters alone.
pub(super) struct Scale {
    pub(super) node: usize,
    /// The states of x and of the weight.
    pub(super) states: [usize; 2],
    pub(super) weight: usize,
    /// Where the bias lies in the arena, if there is one.
    pub(super) bias: Option<usize>,
}

impl Scale {
    /// The row of an output channel, whose states and codes begin at the given places.
    pub(super) fn row(&self, channel: usize, [x, w]: [usize; 2], codes: usize, count: usize) -> ScaleRow {
        let bias = self.bias.map(|bias| bias + channel);
        ScaleRow { first: codes + channel * count, count, states: [x, w + channel], bias }
    }
}

pub(super) fn scales_of(graph: &Graph, arena: &Layout, states: &[State], weights: &[Weight]) -> Vec<Scale> {
    let (of_state, of_codes) = (numbers(states), weights.iter().enumerate().map(|(i, w)| (w.codes, i)).collect::<HashMap<_, _>>());
    let scale = |(index, node): (usize, &Node)| {
        is::<IntegerScale>(node)?;
        let root = |i: usize| graph.root(node.inputs[i]);
        let states = [*of_state.get(&root(0))?, *of_state.get(&root(1))?];
        let bias = node.inputs.get(3).map(|&bias| place_of(graph, arena, bias));
        // A bias that lies elsewhere leaves the node as it is.
        let bias = bias.map_or(Some(None), |place| place.map(Some))?;
        Some(Scale { node: index, states, weight: *of_codes.get(&root(2))?, bias })
    };
    graph.nodes().iter().enumerate().filter_map(scale).collect()
}

/// The gradients of a quantizer's parameters, from the sums of its backward.
pub(super) struct Gradients {
    /// The nodes that are gone: those that add up the sums and take them apart, and the backward of a weight.
    pub(super) nodes: Vec<usize>,
    pub(super) sums: Var,
    pub(super) scale: f32,
    /// The step sizes and zero points that have a gradient.
    pub(super) parameters: [Option<String>; 2],
    /// What is known of the weight, when it is one.
    pub(super) weight: Option<WeightGradient>,
}

impl Gradients {
    /// What becomes of its sums: `first`, and for each of `steps` step sizes so many parts.
    pub(super) fn rows(&self, arena: &Layout, first: usize, steps: usize, parts: usize) -> impl Iterator<Item = GradientRow> {
        let places = [0, 1].map(|i| self.parameters[i].as_ref().and_then(|name| arena.place(name)));
        let scale = self.scale;
        (0..steps).map(move |step| {
            let [d_alpha, d_zero_point] = places.map(|place| place.map(|place| place + step));
            GradientRow { first: first + step, stride: steps, parts, scale, d_alpha, d_zero_point }
        })
    }
}

/// A weight in the arena whose gradient lies in that of the gradients.
pub(super) struct WeightGradient {
    pub(super) name: String,
    /// The gradient of what its codes stand for, which nothing else reads.
    pub(super) d: Var,
    /// Its rows, whose states are counted from the first of the weight.
    pub(super) rows: Vec<WeightRow>,
    pub(super) state: usize,
}

impl WeightGradient {
    pub(super) fn is_aligned(&self) -> bool {
        self.rows.iter().all(WeightRow::is_aligned)
    }

    /// Its rows, when its states begin at a place among all.
    pub(super) fn rows_behind(&self, first: usize) -> impl Iterator<Item = WeightRow> {
        self.rows.iter().map(move |&row| WeightRow { state: first + row.state, ..row })
    }
}

pub(super) fn gradients_of(graph: &Graph, arena: &Layout, prefix: &str, states: &[State]) -> Vec<Gradients> {
    let outputs = Outputs::new(graph, arena, prefix);
    let of_state = numbers(states);
    let gradient = |(index, node): (usize, &Node)| {
        is::<QuantizerStateBackward>(node)?;
        let only = |var: Var| outputs.readers.get(&graph.root(var)) == Some(&1);
        let (total, _, &ColumnSums { parts, scale, .. }) = source(graph, node.inputs[0])?;
        let sums = graph.nodes()[total].inputs[0];
        let (backward, output, op) = source::<QuantizeBackward>(graph, sums)?;
        if output != op.sums() || parts != 1 || !only(node.inputs[0]) || !only(sums) {
            return None;
        }
        // What is read by anything but the arena of gradients stays a value of its own.
        let parameter =
            |&var: &Var| if outputs.readers.contains_key(&var) { outputs.only(var).map(|n| Some(n.to_owned())) } else { Some(None) };
        let parameters = [parameter(&node.outputs[0])?, parameter(&node.outputs[1])?];
        let weight = weight_gradient(graph, arena, &outputs, &of_state, (&graph.nodes()[backward], op));
        let nodes = [total, index].into_iter().chain(weight.is_some().then_some(backward)).collect();
        Some(Gradients { nodes, sums: graph.root(sums), scale, parameters, weight })
    };
    graph.nodes().iter().enumerate().filter_map(gradient).collect()
}

/// The gradient of a weight, when its backward can run behind everything else, on the arena.
fn weight_gradient(
    graph: &Graph,
    arena: &Layout,
    outputs: &Outputs<'_>,
    of_state: &HashMap<Var, usize>,
    (node, op): (&Node, &QuantizeBackward),
) -> Option<WeightGradient> {
    let [x, state, d] = node.inputs[..] else { return None };
    let (name, place) = (param_of(graph, x)?, place_of(graph, arena, x)?);
    let (root, groups) = (graph.root(d), graph.shape(state).rows());
    let count = graph.shape(x).len() / groups;
    let is_own = matches!(graph.values()[root.0].origin, Origin::Node { .. }) && graph.storage(root) == root;
    let is_own = is_own && outputs.readers.get(&root) == Some(&1) && graph.ty(root).dtype == DType::F32;
    // A row for each step size.
    let is_rows = groups == 1 || op.inner == count;
    if !op.d_x || op.activation != Activation::None || !is_own || !is_rows || outputs.only(node.outputs[0]) != Some(name) {
        return None;
    }
    let row = |i| WeightRow { source: place + i * count, count, state: i, levels: Levels::new(op.bits, op.signed) };
    let state = *of_state.get(&graph.root(state))?;
    Some(WeightGradient { name: name.to_owned(), d: root, rows: (0..groups).map(row).collect(), state })
}

/// What the outputs of a graph say of gradients.
pub(in super::super) struct Outputs<'a> {
    pub(in super::super) readers: HashMap<Var, usize>,
    names: HashMap<Var, &'a str>,
    arena: &'a Layout,
    prefix: &'a str,
}

impl<'a> Outputs<'a> {
    pub(in super::super) fn new(graph: &'a Graph, arena: &'a Layout, prefix: &'a str) -> Self {
        let names = graph.outputs().iter().map(|(name, &var)| (graph.root(var), name.as_str())).collect();
        Self { readers: readers(graph), names, arena, prefix }
    }

    /// The parameter of the arena whose gradient a value is, if it is nothing else.
    pub(in super::super) fn only(&self, root: Var) -> Option<&'a str> {
        let name = self.names.get(&root).filter(|_| self.readers.get(&root) == Some(&1))?;
        name.strip_prefix(self.prefix).filter(|name| self.arena.contains(name))
    }
}
