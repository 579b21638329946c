//! Nodes that depend only on parameters and constants are computed once, on the CPU, before the plan exists:
//! frozen batch norms become a scale and a shift, float weights become f16, the first decoder layer's attention among the
//! queries becomes a tensor.

use super::interpret::run_node;
use super::rebuild::Rebuild;
use super::{Graph, Origin, Values, Var};
use crate::tensor::Host;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Nodes with more arithmetic than this stay for the device: the CPU would take seconds.
const MOST_OPERATIONS: u64 = 1 << 32;

/// A graph whose nodes on parameters alone have become parameters.
#[derive(Debug)]
pub struct Folded<'a> {
    /// What is left to run.
    pub graph: Graph,
    from: &'a Graph,
    /// Each parameter of `graph`, as a value of the original.
    sources: BTreeMap<String, Var>,
}

/// Rewrites a graph so that every value that depends only on parameters and constants becomes a parameter. Those in
/// `trainable` are not constant, nor is what depends on them.
///
/// A parameter made here is named by the computation that gives it, so that graphs of one model for different image sizes
/// share it when, and only when, it is the same.
pub fn fold<'a>(graph: &'a Graph, trainable: &dyn Fn(&str) -> bool) -> Folded<'a> {
    let names = names(graph, trainable);
    let mut rebuild = Rebuild::new(graph);
    let mut sources = BTreeMap::new();
    let mut replace = |rebuild: &mut Rebuild<'_>, var: Var| {
        let root = graph.root(var);
        if let Some(name) = names.get(&root) {
            let param = rebuild.to.param(name, graph.ty(root));
            rebuild.stand_for(root, param);
            sources.insert(name.clone(), root);
        }
    };
    for node in graph.nodes() {
        if !node.outputs.iter().all(|v| names.contains_key(v)) {
            node.inputs.iter().for_each(|&v| replace(&mut rebuild, v));
            rebuild.copy(node);
        }
    }
    graph.outputs().values().for_each(|&v| replace(&mut rebuild, v));
    Folded { graph: rebuild.finish(), from: graph, sources }
}

impl Folded<'_> {
    /// Computes those parameters of the graph that are asked for by name.
    ///
    /// # Panics
    /// When a parameter of the original graph has no value, or one of another type.
    pub fn evaluate(&self, params: &Values, wanted: &dyn Fn(&str) -> bool) -> Values {
        let wanted: Vec<(&String, Var)> = self.sources.iter().filter(|(name, _)| wanted(name)).map(|(n, &v)| (n, v)).collect();
        let mut needed = vec![false; self.from.values().len()];
        wanted.iter().for_each(|(_, v)| needed[v.0] = true);
        for node in self.from.nodes().iter().rev() {
            if node.outputs.iter().any(|v| needed[v.0]) {
                node.inputs.iter().for_each(|&v| needed[self.from.root(v).0] = true);
            }
        }
        let mut known: HashMap<Var, Host> = HashMap::new();
        for (i, value) in self.from.values().iter().enumerate().filter(|(i, _)| needed[*i]) {
            let host = match &value.origin {
                Origin::Param(name) => params.get(name).unwrap_or_else(|| panic!("parameter `{name}` has no value")).clone(),
                Origin::Constant(host) => Host::clone(host),
                _ => continue,
            };
            assert_eq!(host.ty(), value.ty, "{:?}", value.origin);
            known.insert(Var(i), host);
        }
        let is_needed = |index: &usize| self.from.nodes()[*index].outputs.iter().any(|v| needed[v.0]);
        let mut left: Vec<usize> = (0..self.from.nodes().len()).filter(is_needed).collect();
        // In waves of nodes whose inputs are all there: most are alone with a parameter of their own.
        while !left.is_empty() {
            let is_ready = |index: &usize| self.from.nodes()[*index].inputs.iter().all(|&v| known.contains_key(&self.from.root(v)));
            let (ready, later): (Vec<usize>, Vec<usize>) = left.into_iter().partition(is_ready);
            assert!(!ready.is_empty(), "what is folded reads parameters and constants");
            let wave: Vec<_> = ready.into_par_iter().flat_map_iter(|index| run_node(self.from, index, &known)).collect();
            known.extend(wave);
            left = later;
        }
        wanted.into_iter().map(|(name, var)| (name.clone(), known[&var].clone())).collect()
    }
}

/// The values that [`fold`] computes or knows: those that depend on parameters and constants alone, `trainable` ones excepted.
pub(super) fn constants(graph: &Graph, trainable: &dyn Fn(&str) -> bool) -> HashSet<Var> {
    names(graph, trainable).into_keys().collect()
}

/// A name for every value that can be computed now.
fn names(graph: &Graph, trainable: &dyn Fn(&str) -> bool) -> HashMap<Var, String> {
    let mut names: HashMap<Var, String> = HashMap::new();
    for (i, value) in graph.values().iter().enumerate() {
        match &value.origin {
            Origin::Param(name) if !trainable(name) => names.insert(Var(i), name.clone()),
            Origin::Constant(host) => {
                names.insert(Var(i), format!("constant.{:016x}", hash([host.ty().to_string().as_bytes(), host.as_bytes()])))
            }
            _ => None,
        };
    }
    for node in graph.nodes() {
        let input = |&v: &Var| {
            let (name, first) = (names.get(&graph.root(v))?, graph.first(v));
            Some(if first == 0 { name.clone() } else { format!("{name}+{first}") })
        };
        let inputs: Option<Vec<String>> = node.inputs.iter().map(input).collect();
        let Some(inputs) = inputs else { continue };
        if node.op.operations(&graph.types(&node.inputs), &graph.types(&node.outputs)) > MOST_OPERATIONS {
            continue;
        }
        let computation = format!("{:?} {inputs:?} {:?}", node.op, graph.types(&node.inputs));
        let prefix = format!("{}.{}.{:016x}", node.scope, node.op.name(), hash([computation.as_bytes()]));
        names.extend(node.outputs.iter().enumerate().map(|(output, &v)| (v, format!("{prefix}.{output}"))));
    }
    names
}

/// The 64-bit FNV-1a hash.
fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let bytes = parts.into_iter().flatten();
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::noise;
    use crate::graph::interpret;
    use crate::kernels::{linear::linear, unary};
    use crate::tensor::{DType, TensorType};

    fn model(batch: usize) -> (Graph, Values) {
        let mut g = Graph::new();
        let x = g.input("x", TensorType::new([batch, 4], DType::F16));
        let (w, b) = (g.param("w", TensorType::f32([3, 4])), g.param("b", TensorType::f32([3])));
        let w = unary::cast(&mut g, w, DType::F16);
        let y = linear(&mut g, x, w, Some(b));
        let start = g.constant(noise([batch, 4], 3).cast(DType::F16));
        let of_params = linear(&mut g, start, w, Some(b));
        g.output("y", y);
        g.output("z", of_params);
        (g, Values::from([("w".into(), noise([3, 4], 1)), ("b".into(), noise([3], 2))]))
    }

    #[test]
    fn the_folded_graph_computes_the_same() {
        let (graph, params) = model(2);
        let inputs = Values::from([("x".into(), noise([2, 4], 4).cast(DType::F16))]);
        let folded = fold(&graph, &|_| false);
        assert_eq!(folded.graph.nodes().len(), 1);
        let values = folded.evaluate(&params, &|_| true);
        assert_eq!(interpret(&folded.graph, &inputs, &values), interpret(&graph, &inputs, &params));
    }

    #[test]
    fn what_depends_on_a_trainable_parameter_stays() {
        let (graph, _) = model(2);
        assert_eq!(fold(&graph, &|name| name == "w").graph.nodes().len(), 3);
        assert_eq!(fold(&graph, &|name| name == "b").graph.nodes().len(), 2);
    }

    #[test]
    fn sizes_share_what_is_the_same_and_nothing_else() {
        let ((one, params), (two, _)) = (model(1), model(2));
        let (one, two) = (fold(&one, &|_| false), fold(&two, &|_| false));
        let (one, two) = (one.evaluate(&params, &|_| true), two.evaluate(&params, &|_| true));
        let shared: Vec<&String> = one.keys().filter(|name| two.contains_key(*name)).collect();
        assert_eq!(shared.len(), 2, "the bias and the weight in f16, but not the constant's product: {shared:?}");
        assert!(shared.iter().all(|name| one[*name] == two[*name]));
    }

    #[test]
    fn parts_of_one_parameter_are_told_apart() {
        let mut g = Graph::new();
        let all = g.param("all", TensorType::f32([2, 64]));
        for (name, first) in [("a", 0), ("b", 64)] {
            let part = g.part(all, first, [64]);
            let y = unary::relu(&mut g, part);
            g.output(name, y);
        }
        let params = Values::from([("all".into(), noise([2, 64], 1))]);
        let folded = fold(&g, &|_| false);
        let values = folded.evaluate(&params, &|_| true);
        let found = interpret(&folded.graph, &Values::new(), &values);
        assert!(found["a"] != found["b"] && found == interpret(&g, &Values::new(), &params));
    }

    #[test]
    fn what_would_take_the_cpu_long_stays() {
        let mut g = Graph::new();
        let (a, w) = (g.param("a", TensorType::f32([4096, 1024])), g.param("w", TensorType::f32([1024, 1024])));
        let y = linear(&mut g, a, w, None);
        g.output("y", y);
        assert_eq!(fold(&g, &|_| false).graph.nodes().len(), 1);
    }

    #[test]
    fn only_what_is_asked_for_is_computed() {
        let (graph, params) = model(1);
        let folded = fold(&graph, &|_| false);
        let none_of_w = Values::from([("b".to_owned(), params["b"].clone())]);
        assert_eq!(folded.evaluate(&none_of_w, &|name| name == "b").len(), 1);
    }
}
