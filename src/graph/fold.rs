//! Nodes that depend only on parameters and constants are computed once, on the CPU, before the plan exists:
//! frozen batch norms become a scale and a shift, float weights become f16.

use super::interpret::run_node;
use super::{Graph, Origin, Values, Var};
use crate::tensor::Host;
use std::collections::{BTreeMap, HashMap};

/// Rewrites a graph so that every node fed only by parameters and constants becomes a parameter, and returns the graph with
/// the values of all parameters it still uses. Parameters in `trainable` are not constant, nor is what depends on them.
///
/// # Panics
/// When a parameter has no value or one of another type.
pub fn fold(graph: &Graph, params: &Values, trainable: &dyn Fn(&str) -> bool) -> (Graph, Values) {
    let known = constants(graph, params, trainable);
    let mut rebuilt = Rebuild { from: graph, to: Graph::new(), map: HashMap::new(), params: BTreeMap::new() };
    for (i, node) in graph.nodes().iter().enumerate() {
        if node.outputs.iter().all(|v| known.contains_key(v)) {
            continue;
        }
        let inputs: Vec<Var> = node.inputs.iter().map(|&v| rebuilt.var(v, &known, params)).collect();
        rebuilt.to.scope = vec![node.scope.clone()];
        let outputs = rebuilt.to.apply_all(node.op.clone(), &inputs);
        rebuilt.map.extend(graph.nodes()[i].outputs.iter().copied().zip(outputs));
    }
    for (name, &var) in graph.outputs() {
        let var = rebuilt.var(var, &known, params);
        rebuilt.to.output(name, var);
    }
    (rebuilt.to, rebuilt.params)
}

/// All values that can be computed now.
fn constants(graph: &Graph, params: &Values, trainable: &dyn Fn(&str) -> bool) -> HashMap<Var, Host> {
    let mut known = HashMap::new();
    for (i, value) in graph.values().iter().enumerate() {
        match &value.origin {
            Origin::Param(name) if !trainable(name) => {
                let host = params.get(name).unwrap_or_else(|| panic!("parameter `{name}` has no value"));
                known.insert(Var(i), host.clone());
            }
            Origin::Constant(host) => {
                known.insert(Var(i), Host::clone(host));
            }
            _ => {}
        }
    }
    for (index, node) in graph.nodes().iter().enumerate() {
        if node.inputs.iter().all(|&v| known.contains_key(&graph.root(v))) {
            known.extend(run_node(graph, index, &known));
        }
    }
    known
}

struct Rebuild<'a> {
    from: &'a Graph,
    to: Graph,
    map: HashMap<Var, Var>,
    params: Values,
}

impl Rebuild<'_> {
    /// The value in the new graph that stands for a value of the old one.
    fn var(&mut self, old: Var, known: &HashMap<Var, Host>, params: &Values) -> Var {
        if let Some(&new) = self.map.get(&old) {
            return new;
        }
        let value = &self.from.values()[old.0];
        let new = match &value.origin {
            Origin::View(of) => {
                let of = self.var(*of, known, params);
                self.to.reshape(of, value.ty.shape.dims())
            }
            Origin::Input(name) => self.to.input(name, value.ty),
            Origin::Param(name) => self.param(name.clone(), params[name].clone()),
            Origin::Constant(host) => self.param(format!("constant.{}", old.0), Host::clone(host)),
            Origin::Node { node, output } => {
                let node = &self.from.nodes()[*node];
                self.param(format!("{}.{}.{}.{output}", node.scope, node.op.name(), old.0), known[&old].clone())
            }
        };
        self.map.insert(old, new);
        new
    }

    fn param(&mut self, name: String, host: Host) -> Var {
        let var = self.to.param(&name, host.ty());
        self.params.insert(name, host);
        var
    }
}
