//! The memory plan: which scratch buffer holds which value, decided before anything runs.
//!
//! wgpu refuses one buffer that is read and written in the same dispatch, even in disjoint ranges, so a slot is a whole
//! buffer and two values share it only when their lives do not touch.

use super::{Graph, Origin, Var};
use std::collections::{BTreeMap, HashMap, HashSet};

/// First and last node at which a value must exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) from: usize,
    pub(super) to: usize,
}

/// Which slot each scratch value lives in, and how large the slots are.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryPlan {
    pub(super) slots: Vec<usize>,
    pub(super) slot_of: HashMap<Var, usize>,
    /// The most bytes of scratch values alive at one node: no plan needs less.
    pub(super) live_bytes: usize,
}

/// Lives of all values that nodes write and that are not outputs of the graph.
pub(super) fn lives(graph: &Graph) -> HashMap<Var, Life> {
    let mut lives = HashMap::new();
    for (i, value) in graph.values().iter().enumerate() {
        if let (Origin::Node { node, .. }, true) = (&value.origin, graph.storage(Var(i)) == Var(i)) {
            lives.insert(Var(i), Life { from: *node, to: *node });
        }
    }
    for (i, node) in graph.nodes().iter().enumerate() {
        for &input in &node.inputs {
            if let Some(life) = lives.get_mut(&graph.storage(input)) {
                life.to = i;
            }
        }
    }
    for &output in graph.outputs().values() {
        lives.remove(&graph.storage(output));
    }
    lives
}

/// Assigns slots greedily, largest value first, each to the first slot that is free for its whole life.
pub(super) fn plan(graph: &Graph, lives: &HashMap<Var, Life>, share: bool) -> MemoryPlan {
    let mut order: Vec<(Var, Life, usize)> = lives.iter().map(|(&v, &life)| (v, life, graph.ty(v).bytes())).collect();
    order.sort_by_key(|&(v, life, bytes)| (std::cmp::Reverse(bytes), life.from, v));
    let mut memory = MemoryPlan { live_bytes: live_bytes(&order, graph.nodes().len()), ..MemoryPlan::default() };
    let mut taken: Vec<Vec<Life>> = Vec::new();
    for (var, life, bytes) in order {
        let free = |lives: &Vec<Life>| share && lives.iter().all(|l| l.to < life.from || life.to < l.from);
        let slot = taken.iter().position(free).unwrap_or_else(|| {
            taken.push(Vec::new());
            memory.slots.push(bytes);
            taken.len() - 1
        });
        taken[slot].push(life);
        memory.slot_of.insert(var, slot);
    }
    memory
}

/// The buffers that a plan of a graph allocates, in bytes, worked out without a device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Needs {
    /// Scratch, largest first: plans may share it.
    pub scratch: Vec<usize>,
    /// Inputs, constants, outputs and their staging.
    pub io: Vec<usize>,
    /// All parameters together.
    pub params: usize,
}

impl Needs {
    /// What a graph needs of which some inputs, parameters and outputs live in buffers from outside, by their names.
    pub fn of(graph: &Graph, is_linked: &dyn Fn(&str) -> bool) -> Self {
        let params = graph.params().iter().map(|(name, &var)| (name.as_str(), var));
        let outputs = graph.outputs().iter().map(|(name, &var)| (name.as_str(), graph.storage(var)));
        let named = graph.inputs().chain(params).chain(outputs);
        let linked: HashSet<Var> = named.filter(|(name, _)| is_linked(name)).map(|(_, var)| var).collect();
        let memory = plan(graph, &lives(graph), true);
        let mut needs = Self { scratch: memory.slots, ..Self::default() };
        for (i, value) in graph.values().iter().enumerate() {
            let var = Var(i);
            if graph.storage(var) != var || linked.contains(&var) || memory.slot_of.contains_key(&var) {
                continue;
            }
            match value.origin {
                Origin::View { .. } => {}
                Origin::Param(_) => needs.params += value.ty.bytes(),
                Origin::Input(_) | Origin::Constant(_) | Origin::Node { .. } => needs.io.push(value.ty.bytes()),
            }
        }
        needs.io.extend(staging(graph, is_linked));
        needs
    }

    /// What two plans need that share scratch and run in turn.
    pub fn beside(mut self, other: Self) -> Self {
        let (long, short) =
            if self.scratch.len() < other.scratch.len() { (other.scratch, self.scratch) } else { (self.scratch, other.scratch) };
        let both = long.iter().enumerate().map(|(i, &bytes)| short.get(i).map_or(bytes, |&b| bytes.max(b)));
        self.scratch = both.collect();
        self.io.extend(other.io);
        self.params = self.params.max(other.params);
        self
    }

    /// The buffers, parameters as one.
    pub fn buffers(&self) -> impl Iterator<Item = usize> {
        self.scratch.iter().chain(&self.io).copied().chain([self.params])
    }

    /// All bytes.
    pub fn total(&self) -> usize {
        self.buffers().sum()
    }
}

/// Bytes that each segment's outputs are read back through.
fn staging(graph: &Graph, is_linked: &dyn Fn(&str) -> bool) -> Vec<usize> {
    let mut bytes: BTreeMap<usize, usize> = BTreeMap::new();
    for (_, &var) in graph.outputs().iter().filter(|(name, _)| !is_linked(name)) {
        let segment = match graph.values()[graph.root(var).0].origin {
            Origin::Node { node, .. } => graph.nodes()[node].segment,
            _ => 0,
        };
        *bytes.entry(segment).or_default() += graph.ty(var).bytes();
    }
    bytes.into_values().collect()
}

fn live_bytes(values: &[(Var, Life, usize)], nodes: usize) -> usize {
    let mut change = vec![0isize; nodes + 1];
    for &(_, life, bytes) in values {
        change[life.from] += bytes as isize;
        change[life.to + 1] -= bytes as isize;
    }
    let running = change.iter().scan(0, |now, c| {
        *now += c;
        Some(*now)
    });
    running.max().unwrap_or(0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_bytes_alive_are_counted_at_one_node() {
        let life = |from, to| Life { from, to };
        let values = [(Var(0), life(0, 1), 10), (Var(1), life(1, 2), 20), (Var(2), life(2, 3), 5)];
        assert_eq!(live_bytes(&values, 4), 30);
    }
}
