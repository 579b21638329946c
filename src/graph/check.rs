//! Does this device compute correctly? Cases of the op table against the CPU twins, and whole graphs node by node.

use super::{Graph, Op, Origin, Params, Plan, PlanOptions, Scratch, Values, Var, interpret::run_node, node_name};
use crate::gpu::{Dispatch, Gpu};
use crate::tensor::compare::{Tolerance, compare};
use crate::tensor::{DType, Host, TensorType};
use crate::{Error, Result};
use rand::Rng;
use std::collections::HashMap;
use std::sync::Arc;

/// One line of the op table: an op on given inputs.
#[derive(Clone, Debug)]
pub struct Case {
    /// What to test.
    pub op: Arc<dyn Op>,
    /// On what.
    pub inputs: Vec<Host>,
    /// How close the device must come to the twin.
    pub tolerance: Tolerance,
}

impl Case {
    /// A case from its parts.
    pub fn new(op: impl Op, inputs: Vec<Host>, tolerance: Tolerance) -> Self {
        Self { op: Arc::new(op), inputs, tolerance }
    }

    /// The name by which `qdetr check --filter` finds the case: op, attributes and input types.
    pub fn name(&self) -> String {
        node_name(&*self.op, &self.inputs.iter().map(Host::ty).collect::<Vec<_>>())
    }

    /// The same case with its float inputs in f16 and a tolerance that f16 can hold.
    pub fn in_f16(&self, tolerance: Tolerance) -> Self {
        let cast = |h: &Host| if h.dtype() == DType::F32 { h.clone().cast(DType::F16) } else { h.clone() };
        Self { op: self.op.clone(), inputs: self.inputs.iter().map(cast).collect(), tolerance }
    }

    /// Whether the case needs f16.
    pub fn needs_f16(&self) -> bool {
        let outputs = self.op.outputs(&self.inputs.iter().map(Host::ty).collect::<Vec<_>>());
        self.inputs.iter().map(Host::ty).chain(outputs).any(|t| t.dtype == DType::F16)
    }
}

/// A family of the op table: one Rust file, one folder or file of WGSL.
#[derive(Clone, Copy)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// Its cases.
    pub cases: fn() -> Vec<Case>,
}

/// What became of one kernel on one case.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The kernel's file.
    pub kernel: &'static str,
    /// The largest absolute error, or what went wrong.
    pub result: Result<f32, String>,
}

/// Runs every kernel that the device has for a case, twice, over two different poisons and with guard words, and compares
/// each with the CPU twin.
///
/// # Errors
/// A failure of the device; a wrong result is an [`Outcome`], not an error.
pub fn check_case(gpu: &Gpu, case: &Case) -> Result<Vec<Outcome>> {
    check_kernels(gpu, case, &|_| true)
}

/// The same for the wanted ones among the kernels.
pub(crate) fn check_kernels(gpu: &Gpu, case: &Case, wanted: &dyn Fn(&Dispatch) -> bool) -> Result<Vec<Outcome>> {
    let mut graph = Graph::new();
    let name = |i: usize| format!("{i:02}");
    let inputs: Vec<_> = case.inputs.iter().enumerate().map(|(i, h)| graph.input(&name(i), h.ty())).collect();
    let outputs = graph.apply_all(case.op.clone(), &inputs);
    for (i, &output) in outputs.iter().enumerate() {
        graph.output(&name(i), output);
    }
    let types = graph.types(&outputs);
    let expected = case.op.reference(&case.inputs.iter().collect::<Vec<_>>(), &types);
    let mut kernels = case.op.kernels(&graph.types(&inputs), &types, gpu.capabilities());
    kernels.retain(|k| gpu.capabilities().allows(k.tier));
    if kernels.is_empty() {
        return Err(Error::Driver(format!("{}: this device has no kernel for it", case.name())));
    }
    let values: Values = case.inputs.iter().enumerate().map(|(i, h)| (name(i), h.clone())).collect();
    let outcome = |(variant, kernel): (usize, &Dispatch)| {
        let result = check_variant(gpu, &graph, &values, &expected, case.tolerance, variant)?;
        Ok(Outcome { kernel: kernel.source.name, result })
    };
    kernels.iter().enumerate().filter(|(_, kernel)| wanted(kernel)).map(outcome).collect()
}

fn check_variant(
    gpu: &Gpu,
    graph: &Graph,
    inputs: &Values,
    expected: &[Host],
    tolerance: Tolerance,
    variant: usize,
) -> Result<Result<f32, String>> {
    let params = Params::upload(gpu, &Values::new())?;
    let options = PlanOptions { variant: Some(variant), guards: true, keep_all: false };
    let plan = Plan::compile(gpu, graph, &params, &mut Scratch::default(), options)?;
    let mut runs = Vec::new();
    for pattern in [0x7FC0_1234, 0xC0DE_4321] {
        plan.poison(pattern);
        runs.push(plan.call(inputs)?);
        if !plan.guards_intact()? {
            return Ok(Err("wrote past the end of an output".into()));
        }
    }
    if runs[0].values().zip(runs[1].values()).any(|(a, b)| a.as_bytes() != b.as_bytes()) {
        return Ok(Err("two runs over different scratch contents differ: an element is not written, or there is a race".into()));
    }
    let mut largest = 0f32;
    for (i, (found, expected)) in runs[0].values().zip(expected).enumerate() {
        match compare(found, expected, tolerance) {
            Ok(error) => largest = largest.max(error),
            Err(mismatch) => return Ok(Err(format!("output {i}: {mismatch}"))),
        }
    }
    Ok(Ok(largest))
}

/// The first node of a graph whose result on the device leaves that of its twin, each node fed with the device's own inputs
/// so that errors do not add up; `None` when all agree. Also returns the number of nodes compared.
///
/// # Errors
/// A failure of the device.
pub fn trace(gpu: &Gpu, graph: &Graph, inputs: &Values, params: &Values, tolerance: Tolerance) -> Result<(usize, Option<String>)> {
    let device_params = Params::upload(gpu, params)?;
    let options = PlanOptions { keep_all: true, ..PlanOptions::default() };
    let plan = Plan::compile(gpu, graph, &device_params, &mut Scratch::default(), options)?;
    for (name, host) in inputs {
        plan.write(name, host);
    }
    plan.run()?;
    for (index, node) in graph.nodes().iter().enumerate() {
        let mut known = HashMap::new();
        for &input in &node.inputs {
            let root = graph.root(input);
            known.insert(root, plan.peek(root)?);
        }
        for (var, expected) in run_node(graph, index, &known) {
            if let Err(mismatch) = compare(&plan.peek(var)?, &expected, tolerance) {
                let what = format!("node {index}, {} in `{}`, {}: {mismatch}", node.op.name(), node.scope, graph.ty(var));
                return Ok((index, Some(what)));
            }
        }
    }
    Ok((graph.nodes().len(), None))
}

/// The first node of a segment, in a plan compiled with `keep_all` that has run so far, that gives a number which is not finite, in
/// words: where it stands, what it gives, and whether its inputs were finite.
///
/// # Errors
/// A failure of the device.
pub fn first_not_finite(plan: &Plan, segment: usize) -> Result<Option<String>> {
    let graph = plan.graph();
    for (index, node) in graph.nodes().iter().enumerate().filter(|(_, node)| node.segment == segment) {
        for &output in &node.outputs {
            let Some((place, value)) = not_finite(&plan.peek(output)?) else { continue };
            let mut wrong = Vec::new();
            for &input in &node.inputs {
                wrong.extend(wrong_source(plan, graph.root(input))?);
            }
            let inputs =
                if wrong.is_empty() { "its inputs are finite".to_owned() } else { format!("not finite before it: {}", wrong.join(", ")) };
            let (op, scope, ty) = (node.op.name(), &node.scope, graph.ty(output));
            return Ok(Some(format!("node {index}, {op} in `{scope}`, gives {ty} with {value} as element {place}; {inputs}")));
        }
    }
    Ok(None)
}

/// The first element that is no finite number, and where it is.
fn not_finite(host: &Host) -> Option<(usize, f32)> {
    if !matches!(host.dtype(), DType::F32 | DType::F16) {
        return None;
    }
    let values = host.to_f32();
    values.iter().position(|v| !v.is_finite()).map(|i| (i, values[i]))
}

/// The name of a value in a plan that is not finite.
fn wrong_source(plan: &Plan, root: Var) -> Result<Option<String>> {
    let (name, wrong) = match &plan.graph().values()[root.0].origin {
        Origin::Constant(host) => ("a constant".to_owned(), not_finite(host)),
        Origin::Param(name) => (format!("parameter `{name}`"), not_finite(&plan.peek(root)?)),
        Origin::Input(name) => (format!("input `{name}`"), not_finite(&plan.peek(root)?)),
        Origin::Node { node, .. } => (format!("what node {node} gives"), not_finite(&plan.peek(root)?)),
        Origin::View { .. } => unreachable!("a root is no view"),
    };
    Ok(wrong.map(|_| name))
}

/// Test data: floats in [-1, 1), the same for the same seed everywhere.
pub fn noise(shape: impl AsRef<[usize]>, seed: u64) -> Host {
    let ty = TensorType::f32(shape);
    let mut rng = rand_pcg::Pcg32::new(seed, 0x0051_DE72);
    let uniform = |_| (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0;
    Host::f32(ty.shape.dims(), (0..ty.shape.len()).map(uniform).collect())
}
