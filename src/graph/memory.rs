//! The memory plan: which scratch buffer holds which value, decided before anything runs.
//!
//! A slot is a whole buffer. Values lie in it one behind the other in time and, where there is room, side by side: wgpu refuses one
//! buffer that is read and written in the same dispatch, even in disjoint ranges, so side by side lie only values that no node is
//! bound to together, unless it reads both.

use super::{Graph, Origin, Var};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Offsets of values in a slot are multiples of this: what every device allows as an offset of a binding.
const ALIGN: usize = 256;

/// Bytes of a binding to an array of vectors that has at least one.
const SMALLEST: usize = 16;

/// First and last node at which a value must exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) from: usize,
    pub(super) to: usize,
}

/// Where a scratch value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) slot: usize,
    /// Bytes before it, a multiple of what every device allows as an offset of a binding.
    pub(super) offset: usize,
}

/// Where each scratch value lies, and how large the slots are.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryPlan {
    pub(super) slots: Vec<usize>,
    pub(super) place_of: HashMap<Var, Place>,
    /// The most bytes of scratch values alive at one node: no plan needs less.
    pub(super) live_bytes: usize,
}

/// What values may share a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// None.
    Never,
    /// Those whose lives do not touch.
    InTurn,
    /// Others too, side by side.
    SideBySide,
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

/// A value, its life and its bytes.
type Tenancy = (Var, Life, usize);

/// Orders of values that are tried, at most: each takes a pass over all of them.
const TRIES: usize = 4;

/// Assigns places greedily, largest value first. Where that wastes memory, values that got a small slot of their own, because each of the others
/// held something that a node is bound to together with them, come first in another try.
pub(super) fn plan(graph: &Graph, lives: &HashMap<Var, Life>, sharing: Sharing) -> MemoryPlan {
    let mut values: Vec<Tenancy> = lives.iter().map(|(&v, &life)| (v, life, graph.ty(v).bytes())).collect();
    let living = living(values.iter().map(|&(_, life, bytes)| (life, bytes)), graph.nodes().len());
    let (live_bytes, apart) = (living.into_iter().max().unwrap_or(0), apart(graph));
    let total = |memory: &MemoryPlan| memory.slots.iter().sum::<usize>();
    let mut turns: HashMap<Var, usize> = HashMap::new();
    let mut best: Option<MemoryPlan> = None;
    for _ in 0..TRIES {
        values.sort_by_key(|&(v, life, bytes)| (std::cmp::Reverse((turns.get(&v).copied().unwrap_or(0), bytes)), life.from, v));
        let plan = greedy(&values, &apart, sharing);
        let smallest = plan.slots.iter().enumerate().min_by_key(|(_, bytes)| **bytes).map_or(0, |(slot, _)| slot);
        for (&var, _) in plan.place_of.iter().filter(|(_, place)| place.slot == smallest) {
            *turns.entry(var).or_default() += 1;
        }
        if best.as_ref().is_none_or(|best| total(&plan) < total(best)) {
            best = Some(plan);
        }
        if best.as_ref().is_some_and(|best| total(best) <= live_bytes) {
            break;
        }
    }
    MemoryPlan { live_bytes, ..best.unwrap_or_default() }
}

/// Assigns each value in turn to the first slot that has room for its whole life.
fn greedy(values: &[Tenancy], apart: &HashMap<Var, HashSet<Var>>, sharing: Sharing) -> MemoryPlan {
    let mut memory = MemoryPlan::default();
    let none = HashSet::new();
    let mut slots: Vec<Slot> = Vec::new();
    for &(var, life, bytes) in values {
        let tenant = Tenant { var, life, offset: 0, bytes: bytes.max(SMALLEST) };
        let apart = apart.get(&var).unwrap_or(&none);
        let room = |(slot, there): (usize, &Slot)| Some(Place { slot, offset: there.room(tenant, apart, sharing)? });
        let place = slots.iter().enumerate().find_map(room).unwrap_or_else(|| {
            slots.push(Slot { bytes: tenant.bytes, tenants: Vec::new() });
            Place { slot: slots.len() - 1, offset: 0 }
        });
        let slot = &mut slots[place.slot];
        // One that comes later may be somewhat larger.
        slot.bytes = slot.bytes.max(place.offset + tenant.bytes);
        slot.tenants.push(Tenant { offset: place.offset, ..tenant });
        memory.place_of.insert(var, place);
    }
    memory.slots = slots.into_iter().map(|slot| slot.bytes).collect();
    memory
}

/// A buffer while it is shared out.
struct Slot {
    bytes: usize,
    tenants: Vec<Tenant>,
}

/// A value in a slot.
#[derive(Clone, Copy)]
struct Tenant {
    var: Var,
    life: Life,
    offset: usize,
    bytes: usize,
}

impl Slot {
    /// Where a value can lie, if it can; it may not lie beside those that have to be apart from it.
    fn room(&self, new: Tenant, apart: &HashSet<Var>, sharing: Sharing) -> Option<usize> {
        let meets = |there: &&Tenant| sharing == Sharing::Never || there.life.from <= new.life.to && new.life.from <= there.life.to;
        let mut beside: Vec<&Tenant> = self.tenants.iter().filter(meets).collect();
        if beside.is_empty() {
            return Some(0);
        }
        if sharing != Sharing::SideBySide || beside.iter().any(|there| apart.contains(&there.var)) {
            return None;
        }
        beside.sort_by_key(|there| there.offset);
        let mut offset = 0;
        for there in beside {
            if offset + new.bytes <= there.offset {
                return Some(offset);
            }
            offset = offset.max((there.offset + there.bytes).next_multiple_of(ALIGN));
        }
        (offset + new.bytes <= self.bytes).then_some(offset)
    }
}

/// For each value those that a node is bound to together with it, when the node writes one of the two.
fn apart(graph: &Graph) -> HashMap<Var, HashSet<Var>> {
    let mut apart: HashMap<Var, HashSet<Var>> = HashMap::new();
    for node in graph.nodes() {
        let all: Vec<Var> = node.inputs.iter().chain(&node.outputs).map(|&v| graph.storage(v)).collect();
        for &written in &all[node.inputs.len()..] {
            for &other in all[..node.inputs.len()].iter().filter(|&&other| other != written) {
                apart.entry(written).or_default().insert(other);
                apart.entry(other).or_default().insert(written);
            }
        }
    }
    apart
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
    /// What the graph is linked to beside parameters and their gradients: arenas that launches share.
    pub arenas: Vec<usize>,
}

impl Needs {
    /// What a graph needs of which some inputs, parameters and outputs live in buffers from outside, by their names.
    pub fn of(graph: &Graph, is_linked: &dyn Fn(&str) -> bool) -> Self {
        let params = graph.params().iter().map(|(name, &var)| (name.as_str(), var));
        let outputs = graph.outputs().iter().map(|(name, &var)| (name.as_str(), graph.storage(var)));
        let named = graph.inputs().chain(params).chain(outputs);
        let linked: HashSet<Var> = named.filter(|(name, _)| is_linked(name)).map(|(_, var)| var).collect();
        let memory = plan(graph, &lives(graph), Sharing::SideBySide);
        let mut needs = Self { scratch: memory.slots, ..Self::default() };
        for (i, value) in graph.values().iter().enumerate() {
            let var = Var(i);
            if graph.storage(var) != var || linked.contains(&var) || memory.place_of.contains_key(&var) {
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
        self.scratch = largest(self.scratch, other.scratch);
        self.arenas = largest(self.arenas, other.arenas);
        self.io.extend(other.io);
        self.params = self.params.max(other.params);
        self
    }

    /// The buffers, parameters as one.
    pub fn buffers(&self) -> impl Iterator<Item = usize> {
        self.scratch.iter().chain(&self.io).chain(&self.arenas).copied().chain([self.params])
    }

    /// All bytes.
    pub fn total(&self) -> usize {
        self.buffers().sum()
    }
}

/// Of two lists of buffers the larger one at each place.
fn largest(a: Vec<usize>, b: Vec<usize>) -> Vec<usize> {
    let (long, short) = if a.len() < b.len() { (b, a) } else { (a, b) };
    long.iter().enumerate().map(|(i, &bytes)| short.get(i).map_or(bytes, |&other| bytes.max(other))).collect()
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

/// Bytes alive at each of so many nodes.
pub(super) fn living(values: impl Iterator<Item = (Life, usize)>, nodes: usize) -> Vec<usize> {
    let mut change = vec![0isize; nodes + 1];
    for (life, bytes) in values {
        change[life.from] += bytes as isize;
        change[life.to + 1] -= bytes as isize;
    }
    let running = change[..nodes].iter().scan(0, |now, c| {
        *now += c;
        Some(*now as usize)
    });
    running.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{binary, unary};
    use crate::tensor::TensorType;

    #[test]
    fn bytes_alive_are_counted_at_each_node() {
        let life = |from, to| Life { from, to };
        let values = [(life(0, 1), 10), (life(1, 2), 20), (life(2, 3), 5)];
        assert_eq!(living(values.into_iter(), 4), [10, 30, 25, 5]);
    }

    /// A large value, then two of half its size that live together: `read` says whether the node that makes the second reads the first.
    fn halves(read: bool) -> (Graph, [Var; 3]) {
        let mut g = Graph::new();
        let [x, y] = [(1024, "x"), (512, "y")].map(|(n, name)| g.input(name, TensorType::f32([n])));
        let large = unary::relu(&mut g, x);
        let end = unary::relu(&mut g, large);
        let a = unary::relu(&mut g, y);
        let b = unary::relu(&mut g, if read { a } else { y });
        let sum = binary::add(&mut g, a, b);
        [("end", end), ("sum", sum)].into_iter().for_each(|(name, var)| g.output(name, var));
        (g, [large, a, b])
    }

    #[test]
    fn values_lie_side_by_side_where_a_larger_one_has_been() {
        let (g, [large, a, b]) = halves(false);
        let memory = plan(&g, &lives(&g), Sharing::SideBySide);
        assert_eq!(memory.slots, [4096]);
        assert_eq!([large, a, b].map(|v| memory.place_of[&v].offset), [0, 0, 2048]);
        assert_eq!(plan(&g, &lives(&g), Sharing::InTurn).slots, [4096, 2048]);
        assert_eq!(plan(&g, &lives(&g), Sharing::Never).slots, [4096, 2048, 2048]);
    }

    #[test]
    fn what_a_node_reads_never_lies_beside_what_it_writes() {
        let (g, [_, a, b]) = halves(true);
        let memory = plan(&g, &lives(&g), Sharing::SideBySide);
        assert_eq!(memory.slots, [4096, 2048]);
        assert_ne!(memory.place_of[&a].slot, memory.place_of[&b].slot);
    }
}
