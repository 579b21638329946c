//! Running a graph on the CPU through the twins: the oracle of every plan.

use super::{Graph, Origin, Var};
use crate::tensor::Host;
use std::collections::{BTreeMap, HashMap};

/// Tensors by name: a graph's inputs or parameters.
pub type Values = BTreeMap<String, Host>;

/// Runs the whole graph through the CPU twins and returns its named outputs.
///
/// # Panics
/// When an input or parameter is missing or of another type: callers bind checked values.
pub fn interpret(graph: &Graph, inputs: &Values, params: &Values) -> Values {
    let mut known: HashMap<Var, Host> = HashMap::new();
    for (i, value) in graph.values().iter().enumerate() {
        let (map, name) = match &value.origin {
            Origin::Input(name) => (inputs, name),
            Origin::Param(name) => (params, name),
            Origin::Constant(host) => {
                known.insert(Var(i), Host::clone(host));
                continue;
            }
            Origin::Node { .. } | Origin::View { .. } => continue,
        };
        let host = map.get(name).unwrap_or_else(|| panic!("`{name}` has no value"));
        assert_eq!(host.ty(), value.ty, "`{name}` is {}, the graph wants {}", host.ty(), value.ty);
        known.insert(Var(i), host.clone());
    }
    let mut uses = count_uses(graph);
    for index in 0..graph.nodes().len() {
        for (var, host) in run_node(graph, index, &known) {
            known.insert(var, host);
        }
        for &input in &graph.nodes()[index].inputs {
            release(graph.root(input), &mut uses, &mut known);
        }
    }
    let read = |(name, &var): (&String, &Var)| (name.clone(), lookup(graph, &known, var));
    graph.outputs().iter().map(read).collect()
}

/// Runs one node through its twin.
pub(crate) fn run_node(graph: &Graph, index: usize, known: &HashMap<Var, Host>) -> Vec<(Var, Host)> {
    let node = &graph.nodes()[index];
    let inputs: Vec<Host> = node.inputs.iter().map(|&v| lookup(graph, known, v)).collect();
    let types = graph.types(&node.outputs);
    let outputs = node.op.reference(&inputs.iter().collect::<Vec<_>>(), &types);
    assert_eq!(outputs.len(), types.len(), "{}: the twin gave {} outputs", node.op.name(), outputs.len());
    for (host, ty) in outputs.iter().zip(&types) {
        assert_eq!(host.ty(), *ty, "{}: the twin gave {}, expected {ty}", node.op.name(), host.ty());
    }
    node.outputs.iter().copied().zip(outputs).collect()
}

fn lookup(graph: &Graph, known: &HashMap<Var, Host>, var: Var) -> Host {
    let (whole, ty) = (&known[&graph.root(var)], graph.ty(var));
    if whole.shape().len() == ty.shape.len() {
        return whole.clone().reshape(ty.shape.dims());
    }
    Host::from_bytes(ty, &whole.as_bytes()[graph.first(var) * ty.dtype.size()..])
}

/// How often each root value is still needed; outputs are needed for ever.
fn count_uses(graph: &Graph) -> HashMap<Var, usize> {
    let mut uses: HashMap<Var, usize> = HashMap::new();
    for node in graph.nodes() {
        for &input in &node.inputs {
            *uses.entry(graph.root(input)).or_default() += 1;
        }
    }
    for &output in graph.outputs().values() {
        *uses.entry(graph.root(output)).or_default() += 1;
    }
    uses
}

fn release(root: Var, uses: &mut HashMap<Var, usize>, known: &mut HashMap<Var, Host>) {
    if let Some(left) = uses.get_mut(&root) {
        *left -= 1;
        if *left == 0 {
            known.remove(&root);
        }
    }
}
