//! The memory plan: which scratch buffer holds which value, decided before anything runs.
//!
//! wgpu refuses one buffer that is read and written in the same dispatch, even in disjoint ranges, so a slot is a whole
//! buffer and two values share it only when their lives do not touch.

use super::{Graph, Origin, Var};
use std::collections::HashMap;

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
