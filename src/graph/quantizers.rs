//! In training, the small work of all quantizers whose parameters lie in one arena by two launches: their states before everything else,
//! and the gradients of their step sizes and zero points behind everything else. Without, each quantizer has three launches of its own,
//! which take longer than what they do.

use super::rebuild::Rebuild;
use super::requantize::readers;
use super::{Arena, Graph, Layout, Links, Node, Op, Origin, Var};
use crate::Result;
use crate::gpu::Gpu;
use crate::kernels::quantize::{GradientRow, QuantizeBackward, QuantizerState, QuantizerStateBackward, QuantizerStates};
use crate::kernels::quantize::{StateGradients, StateRow};
use crate::kernels::reduce::ColumnSums;
use crate::tensor::TensorType;
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

/// A graph whose quantizers share launches.
#[derive(Debug)]
pub struct Quantizers {
    /// What is left to run.
    pub graph: Graph,
    states: Arc<Layout>,
    sums: Arc<Layout>,
}

/// The arenas behind it.
#[derive(Debug)]
pub struct QuantizerArenas {
    states: Arena,
    sums: Arena,
}

impl QuantizerArenas {
    /// Room for the states and sums of a graph.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] when the device cannot give it.
    pub fn new(gpu: &Gpu, of: &Quantizers) -> Result<Self> {
        Ok(Self { states: Arena::new(gpu, "states of quantizers", &of.states)?, sums: Arena::new(gpu, "sums of quantizers", &of.sums)? })
    }

    /// What the graph is linked to, with the arenas of the parameters and of their gradients.
    pub fn links(&self, parameters: &Arena, gradients: &Arena) -> Links {
        let mut links = self.states.links(STATE);
        links.extend(self.sums.links(SUMS));
        let whole = [(PARAMETERS, parameters), (GRADIENTS, gradients), (ALL_SUMS, &self.sums), (STATES, &self.states)];
        links.extend(whole.map(|(name, arena)| (name.to_owned(), arena.whole())));
        links
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.states.layout().bytes() + self.sums.layout().bytes()
    }
}

impl Quantizers {
    /// The same graph with shared launches, for parameters in an arena, whose gradients are outputs under their names behind `prefix`
    /// and lie in an arena of the same layout.
    pub fn share(graph: &Graph, arena: &Layout, prefix: &str) -> Self {
        let states = states_of(graph, arena);
        let gradients = gradients_of(graph, arena, prefix);
        let layout = |types: Vec<TensorType>| Arc::new(Layout::new(types.into_iter().enumerate().map(|(i, ty)| (number(i), ty))));
        let states_layout = layout(states.iter().map(|s| graph.ty(s.state)).collect());
        let sums_layout = layout(gradients.iter().map(|g| graph.ty(g.sums)).collect());
        let mut rebuild = Rebuild::new(graph);
        let all = (!states.is_empty()).then(|| add_states(&mut rebuild, arena, &states, &states_layout));
        let gone: HashSet<usize> = states.iter().map(|s| s.node).chain(gradients.iter().flat_map(|g| g.nodes)).collect();
        for (_, node) in graph.nodes().iter().enumerate().filter(|(i, _)| !gone.contains(i)) {
            rebuild.copy(node);
        }
        if !gradients.is_empty() {
            add_gradients(&mut rebuild, arena, &gradients, &sums_layout);
        }
        let sums: Vec<Var> = gradients.iter().map(|g| rebuild.var(g.sums)).collect();
        let written = gradients.iter().flat_map(|g| g.parameters.iter().flatten()).map(|name| format!("{prefix}{name}")).collect();
        let mut shared = rebuild.finish_without(&written);
        all.into_iter().for_each(|all| shared.output(STATES, all));
        sums.into_iter().enumerate().for_each(|(i, sums)| shared.output(&format!("{SUMS}{}", number(i)), sums));
        Self { graph: shared, states: states_layout, sums: sums_layout }
    }
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

/// Adds the node of all states, and lets its parts stand for the single ones.
fn add_states(rebuild: &mut Rebuild<'_>, arena: &Layout, states: &[State], layout: &Layout) -> Var {
    let mut rows = vec![None; layout.bytes() / 16];
    for ((_, offset, _), state) in layout.places().zip(states) {
        state.rows.iter().zip(&mut rows[offset / 16..]).for_each(|(&row, place)| *place = Some(row));
    }
    let parameters = rebuild.to.input(PARAMETERS, TensorType::f32([arena.bytes() / 4]));
    let table = rebuild.to.constant(StateRow::table(&rows));
    for (i, state) in states.iter().enumerate() {
        let part = rebuild.to.input(&format!("{STATE}{}", number(i)), rebuild.from.ty(state.state));
        rebuild.stand_for(state.state, part);
    }
    rebuild.to.apply(QuantizerStates, &[parameters, table])
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

/// Adds the node of all gradients.
fn add_gradients(rebuild: &mut Rebuild<'_>, arena: &Layout, gradients: &[Gradients], layout: &Layout) {
    let mut rows = Vec::new();
    for ((_, offset, ty), Gradients { scale, parameters, .. }) in layout.places().zip(gradients) {
        let places = [0, 1].map(|i| parameters[i].as_ref().and_then(|name| arena.place(name)));
        let (parts, stride) = (ty.shape.rows(), ty.shape.last() / 4);
        rows.extend((0..stride).map(|step| {
            let [d_alpha, d_zero_point] = places.map(|place| place.map(|place| place + step));
            GradientRow { first: offset / 16 + step, stride, parts, scale: *scale, d_alpha, d_zero_point }
        }));
    }
    let whole = rebuild.to.input(GRADIENTS, TensorType::f32([arena.bytes() / 4]));
    let sums = rebuild.to.input(ALL_SUMS, TensorType::f32([layout.bytes() / 4]));
    let table = rebuild.to.constant(GradientRow::table(&rows));
    rebuild.to.apply(StateGradients, &[whole, sums, table]);
}
