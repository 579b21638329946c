//! In training, the small work of all quantizers whose parameters lie in one arena by a few launches: before everything else their
//! states, the codes of all weights with the values that these stand for, and the scales of the products of these; behind everything else
//! the gradients of the weights, and of all step sizes and zero points. Without, each quantizer has three launches of its own, and one of
//! weights seven, which take longer than what they do.

pub(super) mod find;

use super::rebuild::Rebuild;
use super::{Arena, Graph, Layout, Links, Var};
use crate::Result;
use crate::gpu::Gpu;
use crate::kernels::integer::{ArenaScales, ScaleRow};
use crate::kernels::quantize::{ArenaBackward, ArenaCodes, CodeBlock, GradientRow, QuantizerStates, StateGradients, StateRow, WeightRow};
use crate::tensor::{DType, TensorType};
use find::{Gradients, Scale, State, Weight, WeightGradient, gradients_of, scales_of, states_of, values_type, weights_of};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What all names begin with.
const PREFIX: &str = "quantizers.";
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
/// As these, of the products of weights: their scales and shifts.
const ALL_SCALES: &str = "quantizers.scales";
const ALL_SHIFTS: &str = "quantizers.shifts";
const SCALES: &str = "quantizers.scales.";
const SHIFTS: &str = "quantizers.shifts.";

/// A graph whose quantizers share launches.
#[derive(Debug)]
pub struct Quantizers {
    /// What is left to run.
    pub graph: Graph,
    states: Arc<Layout>,
    sums: Arc<Layout>,
    codes: Arc<Layout>,
    values: Arc<Layout>,
    /// Of scales, and of shifts.
    scales: Arc<Layout>,
}

/// The arenas behind it.
#[derive(Debug)]
pub struct QuantizerArenas {
    states: Arena,
    sums: Arena,
    codes: Arena,
    values: Arena,
    scales: Arena,
    shifts: Arena,
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
            scales: arena("scales of products", &of.scales, |a| &a.scales)?,
            shifts: arena("shifts of products", &of.scales, |a| &a.shifts)?,
        })
    }

    /// Each with the names of its parts and of the whole.
    fn named(&self) -> [(&Arena, &str, &str); 6] {
        [
            (&self.states, STATE, STATES),
            (&self.sums, SUMS, ALL_SUMS),
            (&self.codes, CODES, ALL_CODES),
            (&self.values, VALUES, ALL_VALUES),
            (&self.scales, SCALES, ALL_SCALES),
            (&self.shifts, SHIFTS, ALL_SHIFTS),
        ]
    }

    /// What the graph is linked to, with the arenas of the parameters and of their gradients.
    pub fn links(&self, parameters: &Arena, gradients: &Arena) -> Links {
        let mut links = Links::from([(PARAMETERS.to_owned(), parameters.whole()), (GRADIENTS.to_owned(), gradients.whole())]);
        for (arena, part, whole) in self.named() {
            links.extend(arena.links(part));
            links.insert(whole.to_owned(), arena.whole());
        }
        links
    }

    /// Bytes on the device of some that may share.
    pub fn bytes<'a>(all: impl Iterator<Item = &'a Self>) -> usize {
        let buffers = all.flat_map(Self::named).map(|(arena, ..)| arena.whole());
        buffers.map(|slice| (slice.buffer, slice.size)).collect::<HashMap<_, _>>().into_values().sum::<u64>() as usize
    }
}

impl Quantizers {
    /// The same graph with shared launches, for parameters in an arena, whose gradients are outputs under their names behind `prefix`
    /// and lie in an arena of the same layout.
    pub fn share(graph: &Graph, arena: &Layout, prefix: &str) -> Self {
        let states = states_of(graph, arena);
        let weights = weights_of(graph, arena, &states);
        let scales = scales_of(graph, arena, &states, &weights);
        let gradients = gradients_of(graph, arena, prefix, &states);
        let backward = Backward::new(gradients);
        let to = values_type(graph);
        let shared = Self {
            graph: Graph::new(),
            states: layout(states.iter().map(|s| graph.ty(s.state))),
            sums: layout(backward.sums(graph)),
            codes: layout(weights.iter().map(|w| graph.ty(w.codes))),
            values: layout(weights.iter().map(|w| graph.ty(w.codes).with_dtype(to))),
            scales: layout(scales.iter().map(|s| graph.ty(graph.nodes()[s.node].outputs[0]))),
        };
        let mut rebuild = Rebuild::new(graph);
        let mut outputs = Vec::new();
        let given = shared.add_states(&mut rebuild, arena, &states);
        if let Some([parameters, all]) = given {
            outputs.push((STATES.to_owned(), all));
            let of_weights = shared.add_weights(&mut rebuild, [parameters, all], &states, &weights);
            if let Some(&codes) = of_weights.first() {
                let of_products = shared.add_scales(&mut rebuild, [parameters, all, codes], &weights, &scales);
                outputs.extend([ALL_SCALES, ALL_SHIFTS].map(str::to_owned).into_iter().zip(of_products));
            }
            outputs.extend([ALL_CODES, ALL_VALUES].map(str::to_owned).into_iter().zip(of_weights));
        }
        let mut gone: HashSet<usize> = states.iter().map(|s| s.node).chain(scales.iter().map(|s| s.node)).collect();
        gone.extend(weights.iter().flat_map(|w| &w.nodes).chain(backward.all().flat_map(|g| &g.nodes)));
        for (_, node) in graph.nodes().iter().enumerate().filter(|(i, _)| !gone.contains(i)) {
            rebuild.copy(node);
        }
        outputs.extend(shared.add_gradients(&mut rebuild, arena, &backward, given));
        for WeightGradient { name, d, .. } in backward.all().filter_map(|g| g.weight.as_ref()) {
            outputs.push((format!("{prefix}{name}"), rebuild.var(*d)));
        }
        let written = backward.written().map(|name| format!("{prefix}{name}")).collect();
        let mut graph = rebuild.finish_without(&written);
        outputs.into_iter().for_each(|(name, var)| graph.output(&name, var));
        Self { graph, ..shared }
    }

    /// Whether a value of this name lies in an arena of these, that of the parameters, or that of their gradients.
    pub fn is_linked(name: &str) -> bool {
        name.starts_with(PREFIX)
    }

    /// Bytes of the arenas.
    pub fn buffers(&self) -> [usize; 6] {
        [&self.states, &self.sums, &self.codes, &self.values, &self.scales, &self.scales].map(|layout| layout.bytes())
    }

    /// Where the rows of each state begin.
    fn first_rows(&self) -> Vec<usize> {
        self.states.places().map(|(_, offset, _)| offset / 16).collect()
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
        let first_rows = self.first_rows();
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

    /// Adds the node of all scales and shifts, and lets its parts stand for the single ones; both, whole.
    fn add_scales(&self, rebuild: &mut Rebuild<'_>, given: [Var; 3], weights: &[Weight], scales: &[Scale]) -> Vec<Var> {
        if scales.is_empty() {
            return Vec::new();
        }
        let first_rows = self.first_rows();
        let codes: Vec<usize> = self.codes.places().map(|(_, offset, _)| offset).collect();
        let mut rows: Vec<Option<ScaleRow>> = vec![None; self.scales.bytes() / 4];
        for ((i, scale), (_, offset, ty)) in scales.iter().enumerate().zip(self.scales.places()) {
            let count = weights[scale.weight].block.count / ty.shape.len();
            let row = |channel| scale.row(channel, scale.states.map(|state| first_rows[state]), codes[scale.weight], count);
            (0..ty.shape.len()).for_each(|channel| rows[offset / 4 + channel] = Some(row(channel)));
            let node = &rebuild.from.nodes()[scale.node];
            for (name, &var) in [SCALES, SHIFTS].into_iter().zip(&node.outputs) {
                let input = rebuild.to.input(&format!("{name}{}", number(i)), ty);
                rebuild.stand_for(var, input);
            }
        }
        let table = rebuild.to.constant(ScaleRow::table(&rows));
        rebuild.to.apply_all(Arc::new(ArenaScales), &[given[0], given[1], given[2], table])
    }

    /// Adds the nodes of all gradients; the sums that they read, by name.
    fn add_gradients(&self, rebuild: &mut Rebuild<'_>, arena: &Layout, backward: &Backward, given: Option<[Var; 2]>) -> Vec<(String, Var)> {
        let Some([parameters, states]) = given.filter(|_| backward.all().next().is_some()) else { return Vec::new() };
        let whole = rebuild.to.input(GRADIENTS, TensorType::f32([arena.bytes() / 4]));
        let first_rows = self.first_rows();
        let mut sums = Vec::new();
        for of_weights in &backward.weights {
            let rows: Vec<WeightRow> =
                of_weights.iter().filter_map(|g| g.weight.as_ref()).flat_map(|w| w.rows_behind(first_rows[w.state])).collect();
            let aligned = rows.iter().all(WeightRow::is_aligned);
            let table = rebuild.to.constant(WeightRow::table(&rows));
            sums.push(rebuild.to.apply_all(Arc::new(ArenaBackward { aligned }), &[whole, parameters, states, table])[1]);
        }
        sums.extend(backward.others.iter().map(|g| rebuild.var(g.sums)));
        let all = rebuild.to.input(ALL_SUMS, TensorType::f32([self.sums.bytes() / 4]));
        let table = rebuild.to.constant(GradientRow::table(&backward.rows(arena, &self.sums)));
        rebuild.to.apply(StateGradients, &[whole, all, table]);
        sums.into_iter().enumerate().map(|(i, var)| (format!("{SUMS}{}", number(i)), var)).collect()
    }
}

/// The gradients of all quantizers, in the order of their sums.
struct Backward {
    /// Those of weights, a launch each: of rows that are read four elements at a time, and of others.
    weights: Vec<Vec<Gradients>>,
    others: Vec<Gradients>,
}

impl Backward {
    fn new(gradients: Vec<Gradients>) -> Self {
        let (weights, others): (Vec<_>, Vec<_>) = gradients.into_iter().partition(|g| g.weight.is_some());
        let (aligned, unaligned): (Vec<_>, Vec<_>) =
            weights.into_iter().partition(|g| g.weight.as_ref().is_some_and(WeightGradient::is_aligned));
        Self { weights: [aligned, unaligned].into_iter().filter(|all| !all.is_empty()).collect(), others }
    }

    fn all(&self) -> impl Iterator<Item = &Gradients> {
        self.weights.iter().flatten().chain(&self.others)
    }

    /// Types of the sums: a row for each step size of all weights of a launch, and those that other quantizers leave.
    fn sums(&self, graph: &Graph) -> impl Iterator<Item = TensorType> {
        let rows = |of_weights: &Vec<Gradients>| of_weights.iter().filter_map(|g| g.weight.as_ref()).map(|w| w.rows.len()).sum::<usize>();
        let of_weights = self.weights.iter().map(move |of_weights| TensorType::f32([rows(of_weights), 4]));
        of_weights.chain(self.others.iter().map(|g| graph.ty(g.sums)))
    }

    /// The parameters whose gradients the launches write.
    fn written(&self) -> impl Iterator<Item = &String> {
        self.all().flat_map(|g| g.parameters.iter().flatten().chain(g.weight.iter().map(|weight| &weight.name)))
    }

    /// How the sums become gradients.
    fn rows(&self, arena: &Layout, sums: &Layout) -> Vec<GradientRow> {
        let mut rows = Vec::new();
        let mut places = sums.places().map(|(_, offset, ty)| (offset / 16, ty));
        for (of_weights, (mut first, _)) in self.weights.iter().zip(&mut places) {
            for gradients in of_weights {
                let steps = gradients.weight.as_ref().map_or(0, |weight| weight.rows.len());
                rows.extend(gradients.rows(arena, first, steps, 1));
                first += steps;
            }
        }
        for (gradients, (first, ty)) in self.others.iter().zip(places) {
            rows.extend(gradients.rows(arena, first, ty.shape.last() / 4, ty.shape.rows()));
        }
        rows
    }
}

/// A layout of numbered tensors.
fn layout(types: impl Iterator<Item = TensorType>) -> Arc<Layout> {
    Arc::new(Layout::new(types.enumerate().map(|(i, ty)| (number(i), ty))))
}

fn number(index: usize) -> String {
    format!("{index:05}")
}
