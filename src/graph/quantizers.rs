//! In training, the small work of all quantizers whose parameters lie in one arena by three launches: before everything else their states,
//! and the codes of all weights with the values that these stand for; behind everything else the gradients of their step sizes and
//! zero points. Without, each quantizer has three launches of its own, and one of weights five, which take longer than what they do.

use super::rebuild::Rebuild;
use super::requantize::readers;
use super::{Arena, Graph, Layout, Links, Node, Op, Origin, Var};
use crate::Result;
use crate::gpu::Gpu;
use crate::kernels::quantize::{
    ArenaCodes, CodeBlock, Dequantize, GradientRow, Quantize, QuantizeBackward, QuantizerState, QuantizerStateBackward, QuantizerStates,
    StateGradients, StateRow,
};
use crate::kernels::reduce::ColumnSums;
use crate::tensor::{DType, TensorType};
use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Inputs that are a whole arena: of parameters, of gradients, of sums.
const PARAMETERS: &str = "quantizers.parameters";
const GRADIENTS: &str = "quantizers.gradients";
const ALL_SUMS: &str = "quantizers.sums";
/// The output that is all states, and before a number: one quantizer's state, which is an input, and its sums, an output.
const STATES: &str = "quantizers.states";
const STATE: &str = "quantizers.state.";
const SUMS: &str = "quantizers.sums.";
/// As these, of weights: their codes, and the values that the codes stand for.
const ALL_CODES: &str = "quantizers.codes";
const ALL_VALUES: &str = "quantizers.values";
const CODES: &str = "quantizers.codes.";
const VALUES: &str = "quantizers.values.";

/// A graph whose quantizers share launches.
#[derive(Debug)]
pub struct Quantizers {
    /// What is left to run.
    pub graph: Graph,
    states: Arc<Layout>,
    sums: Arc<Layout>,
    codes: Arc<Layout>,
    values: Arc<Layout>,
}

/// The arenas behind it.
#[derive(Debug)]
pub struct QuantizerArenas {
    states: Arena,
    sums: Arena,
    codes: Arena,
    values: Arena,
}

impl QuantizerArenas {
    /// Room for a graph; what lies as in `others`, those of graphs for other sizes, which never run at the same time, is theirs.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] when the device cannot give it.
    pub fn new<'a>(gpu: &Gpu, of: &Quantizers, others: impl Iterator<Item = &'a Self>) -> Result<Self> {
        let others: Vec<&Self> = others.collect();
        let arena = |label, layout: &Arc<Layout>, part: fn(&Self) -> &Arena| {
            let same = others.iter().map(|other| part(other)).find(|arena| arena.layout() == layout);
            same.map_or_else(|| Arena::new(gpu, label, layout), |arena| Ok(arena.clone()))
        };
        Ok(Self {
            states: arena("states of quantizers", &of.states, |a| &a.states)?,
            sums: arena("sums of quantizers", &of.sums, |a| &a.sums)?,
            codes: arena("codes of weights", &of.codes, |a| &a.codes)?,
            values: arena("values of weights", &of.values, |a| &a.values)?,
        })
    }

    /// What the graph is linked to, with the arenas of the parameters and of their gradients.
    pub fn links(&self, parameters: &Arena, gradients: &Arena) -> Links {
        let mut links = self.states.links(STATE);
        links.extend(self.sums.links(SUMS));
        links.extend(self.codes.links(CODES));
        links.extend(self.values.links(VALUES));
        let whole = [(PARAMETERS, parameters), (GRADIENTS, gradients), (ALL_SUMS, &self.sums), (STATES, &self.states)];
        let of_weights = [(ALL_CODES, &self.codes), (ALL_VALUES, &self.values)];
        links.extend(whole.into_iter().chain(of_weights).map(|(name, arena)| (name.to_owned(), arena.whole())));
        links
    }

    /// Bytes on the device of some that may share.
    pub fn bytes<'a>(all: impl Iterator<Item = &'a Self>) -> usize {
        let buffers = all.flat_map(|a| [&a.states, &a.sums, &a.codes, &a.values]).map(|arena| arena.whole());
        buffers.map(|slice| (slice.buffer, slice.size)).collect::<HashMap<_, _>>().into_values().sum::<u64>() as usize
    }
}

impl Quantizers {
    /// The same graph with shared launches, for parameters in an arena, whose gradients are outputs under their names behind `prefix`
    /// and lie in an arena of the same layout.
    pub fn share(graph: &Graph, arena: &Layout, prefix: &str) -> Self {
        let states = states_of(graph, arena);
        let weights = weights_of(graph, arena, &states);
        let gradients = gradients_of(graph, arena, prefix);
        let to = values_type(graph);
        let shared = Self {
            graph: Graph::new(),
            states: layout(states.iter().map(|s| graph.ty(s.state))),
            sums: layout(gradients.iter().map(|g| graph.ty(g.sums))),
            codes: layout(weights.iter().map(|w| graph.ty(w.codes))),
            values: layout(weights.iter().map(|w| graph.ty(w.codes).with_dtype(to))),
        };
        let mut rebuild = Rebuild::new(graph);
        let mut outputs = Vec::new();
        if let Some([parameters, all]) = shared.add_states(&mut rebuild, arena, &states) {
            outputs.push((STATES.to_owned(), all));
            let of_weights = shared.add_weights(&mut rebuild, [parameters, all], &states, &weights);
            outputs.extend([ALL_CODES, ALL_VALUES].map(str::to_owned).into_iter().zip(of_weights));
        }
        let mut gone: HashSet<usize> = states.iter().map(|s| s.node).chain(gradients.iter().flat_map(|g| g.nodes)).collect();
        gone.extend(weights.iter().flat_map(|w| &w.nodes));
        for (_, node) in graph.nodes().iter().enumerate().filter(|(i, _)| !gone.contains(i)) {
            rebuild.copy(node);
        }
        shared.add_gradients(&mut rebuild, arena, &gradients);
        outputs.extend(gradients.iter().enumerate().map(|(i, g)| (format!("{SUMS}{}", number(i)), rebuild.var(g.sums))));
        let written = gradients.iter().flat_map(|g| g.parameters.iter().flatten()).map(|name| format!("{prefix}{name}")).collect();
        let mut graph = rebuild.finish_without(&written);
        outputs.into_iter().for_each(|(name, var)| graph.output(&name, var));
        Self { graph, ..shared }
    }

    /// Adds the node of all states, and lets its parts stand for the single ones; the arena of parameters and all states.
    fn add_states(&self, rebuild: &mut Rebuild<'_>, arena: &Layout, states: &[State]) -> Option<[Var; 2]> {
        if states.is_empty() {
            return None;
        }
        let mut rows = vec![None; self.states.bytes() / 16];
        for ((_, offset, _), state) in self.states.places().zip(states) {
            state.rows.iter().zip(&mut rows[offset / 16..]).for_each(|(&row, place)| *place = Some(row));
        }
        let parameters = rebuild.to.input(PARAMETERS, TensorType::f32([arena.bytes() / 4]));
        let table = rebuild.to.constant(StateRow::table(&rows));
        for (i, state) in states.iter().enumerate() {
            let part = rebuild.to.input(&format!("{STATE}{}", number(i)), rebuild.from.ty(state.state));
            rebuild.stand_for(state.state, part);
        }
        let all = rebuild.to.apply(QuantizerStates, &[parameters, table]);
        Some([parameters, all])
    }

    /// Adds the node of all weights' codes and values, and lets its parts stand for the single ones; both, whole.
    fn add_weights(&self, rebuild: &mut Rebuild<'_>, given: [Var; 2], states: &[State], weights: &[Weight]) -> Vec<Var> {
        if weights.is_empty() {
            return Vec::new();
        }
        let size = self.values.places().next().map_or(4, |(_, _, ty)| ty.dtype.size());
        let first_rows: Vec<usize> = self.states.places().map(|(_, offset, _)| offset / 16).collect();
        let mut blocks = vec![None; self.codes.bytes() / 512];
        for (((_, offset, _), (_, at, _)), weight) in self.codes.places().zip(self.values.places()).zip(weights) {
            let first = first_rows[weight.state];
            let block = CodeBlock { states: [first, first + states[weight.state].rows.len() - 1], values: at / size, ..weight.block };
            block.all().zip(&mut blocks[offset / 512..]).for_each(|(block, place)| *place = Some(block));
        }
        let table = rebuild.to.constant(CodeBlock::table(&blocks));
        for (i, weight) in weights.iter().enumerate() {
            let mut part = |name: &str, var: Var| {
                let input = rebuild.to.input(&format!("{name}{}", number(i)), rebuild.from.ty(var));
                rebuild.stand_for(var, input);
            };
            part(CODES, weight.codes);
            weight.values.iter().for_each(|&values| part(VALUES, values));
        }
        let to = self.values.places().next().map_or(DType::F32, |(_, _, ty)| ty.dtype);
        let op = ArenaCodes { values: self.values.bytes() / size, to };
        rebuild.to.apply_all(Arc::new(op), &[given[0], given[1], table])
    }

    /// Adds the node of all gradients.
    fn add_gradients(&self, rebuild: &mut Rebuild<'_>, arena: &Layout, gradients: &[Gradients]) {
        if gradients.is_empty() {
            return;
        }
        let mut rows = Vec::new();
        for ((_, offset, ty), Gradients { scale, parameters, .. }) in self.sums.places().zip(gradients) {
            let places = [0, 1].map(|i| parameters[i].as_ref().and_then(|name| arena.place(name)));
            let (parts, stride) = (ty.shape.rows(), ty.shape.last() / 4);
            rows.extend((0..stride).map(|step| {
                let [d_alpha, d_zero_point] = places.map(|place| place.map(|place| place + step));
                GradientRow { first: offset / 16 + step, stride, parts, scale: *scale, d_alpha, d_zero_point }
            }));
        }
        let whole = rebuild.to.input(GRADIENTS, TensorType::f32([arena.bytes() / 4]));
        let sums = rebuild.to.input(ALL_SUMS, TensorType::f32([self.sums.bytes() / 4]));
        let table = rebuild.to.constant(GradientRow::table(&rows));
        rebuild.to.apply(StateGradients, &[whole, sums, table]);
    }
}

/// A layout of numbered tensors.
fn layout(types: impl Iterator<Item = TensorType>) -> Arc<Layout> {
    Arc::new(Layout::new(types.enumerate().map(|(i, ty)| (number(i), ty))))
}

fn number(index: usize) -> String {
    format!("{index:05}")
}

/// The state of a quantizer, computed from the arena.
struct State {
    node: usize,
    state: Var,
    rows: Vec<StateRow>,
}

fn states_of(graph: &Graph, arena: &Layout) -> Vec<State> {
    let state = |(index, node): (usize, &Node)| {
        let op: &QuantizerState = (&*node.op as &dyn Any).downcast_ref()?;
        let places: Vec<usize> = node.inputs.iter().map(|&v| place_of(graph, arena, v)).collect::<Option<_>>()?;
        let row = |i| StateRow { alpha: places[0] + i, zero_point: places.get(1).map(|zp| zp + i), levels: op.levels() };
        let state = node.outputs[0];
        Some(State { node: index, state, rows: (0..graph.shape(state).rows()).map(row).collect() })
    };
    graph.nodes().iter().enumerate().filter_map(state).collect()
}

/// Where a parameter lies in the arena.
fn place_of(graph: &Graph, arena: &Layout, var: Var) -> Option<usize> {
    match &graph.values()[graph.root(var).0].origin {
        Origin::Param(name) => arena.place(name),
        _ => None,
    }
}

/// A weight whose codes, and the values that these stand for, are computed from the arena.
struct Weight {
    /// The nodes of its quantizer and of what gives the values.
    nodes: Vec<usize>,
    codes: Var,
    values: Vec<Var>,
    /// The state that it has.
    state: usize,
    /// All of it, as if it were one block.
    block: CodeBlock,
}

/// The element type of all values: that which most of a network computes in. A few layers that answer in f32 keep nodes of their own.
fn values_type(graph: &Graph) -> DType {
    let is_half = |node: &Node| (&*node.op as &dyn Any).downcast_ref().is_some_and(|d: &Dequantize| d.to == DType::F16);
    if graph.nodes().iter().any(is_half) { DType::F16 } else { DType::F32 }
}

fn weights_of(graph: &Graph, arena: &Layout, states: &[State]) -> Vec<Weight> {
    let of_state: HashMap<Var, usize> = states.iter().enumerate().map(|(i, s)| (s.state, i)).collect();
    let mut weights: Vec<Weight> = Vec::new();
    let mut of_codes: HashMap<Var, usize> = HashMap::new();
    let to = values_type(graph);
    for (index, node) in graph.nodes().iter().enumerate() {
        let op = &*node.op as &dyn Any;
        if let Some(quantizer) = op.downcast_ref::<Quantize>() {
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
        } else if let Some(dequantizer) = op.downcast_ref::<Dequantize>() {
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

/// The gradients of a quantizer's parameters, from the sums of its backward.
struct Gradients {
    /// The nodes that add up the sums and take them apart.
    nodes: [usize; 2],
    sums: Var,
    scale: f32,
    /// The step sizes and zero points that have a gradient.
    parameters: [Option<String>; 2],
}

fn gradients_of(graph: &Graph, arena: &Layout, prefix: &str) -> Vec<Gradients> {
    let readers = readers(graph);
    let names: HashMap<Var, &str> = graph.outputs().iter().map(|(name, &var)| (graph.root(var), name.as_str())).collect();
    let gradient = |(index, node): (usize, &Node)| {
        (&*node.op as &dyn Any).downcast_ref::<QuantizerStateBackward>()?;
        let only = |var: Var| readers.get(&graph.root(var)) == Some(&1);
        let (total, &ColumnSums { parts, scale, .. }) = source::<ColumnSums>(graph, node.inputs[0], 0)?;
        let sums = graph.nodes()[total].inputs[0];
        source::<QuantizeBackward>(graph, sums, 1)?;
        if parts != 1 || !only(node.inputs[0]) || !only(sums) {
            return None;
        }
        // What is read by anything but the arena of gradients stays a value of its own.
        let parameter = |&var: &Var| match readers.get(&var) {
            None => Some(None),
            Some(1) => names.get(&var)?.strip_prefix(prefix).filter(|name| arena.contains(name)).map(|name| Some(name.to_owned())),
            Some(_) => None,
        };
        let parameters = [parameter(&node.outputs[0])?, parameter(&node.outputs[1])?];
        Some(Gradients { nodes: [total, index], sums: graph.root(sums), scale, parameters })
    };
    graph.nodes().iter().enumerate().filter_map(gradient).collect()
}

/// The node of such an op that gives a value as one of its outputs.
fn source<T: Op>(graph: &Graph, var: Var, wanted: usize) -> Option<(usize, &T)> {
    let Origin::Node { node, output } = graph.values()[graph.root(var).0].origin else { return None };
    let op = (&*graph.nodes()[node].op as &dyn Any).downcast_ref()?;
    (output == wanted).then_some((node, op))
}
