//! The checkers themselves: wrong kernels on purpose must turn them red.

mod common;

use common::gpu;
use qdetr::gpu::shader::Source;
use qdetr::gpu::{Capabilities, Dispatch, Words};
use qdetr::graph::check::{Case, check_case, noise, trace};
use qdetr::graph::{Graph, Op, Values};
use qdetr::tensor::compare::Tolerance;
use qdetr::tensor::{Host, TensorType};

/// Adds one; its kernel's statement is given, so that it can be wrong in every way there is.
#[derive(Clone, Debug)]
struct AddOne {
    body: &'static str,
}

const HEAD: &str = "struct Params { n: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) { let i = id.x; ";

impl Op for AddOne {
    fn name(&self) -> &'static str {
        "add_one"
    }
    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        vec![inputs[0]]
    }
    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        vec![Host::from_f32(outputs[0], inputs[0].to_f32().iter().map(|x| x + 1.0).collect())]
    }
    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let n = inputs[0].shape.len();
        let text: &'static str = Box::leak(format!("{HEAD} {} }}", self.body).into_boxed_str());
        vec![Dispatch::new(Source { name: "test", text }, 1).params(Words::of([n])).over_items(n, 64)]
    }
}

fn verdict(body: &'static str) -> Result<f32, String> {
    let case = Case::new(AddOne { body }, vec![noise([100], 1)], Tolerance::of(1e-6));
    check_case(gpu(), &case).expect("the device works").remove(0).result
}

#[test]
fn a_right_kernel_is_green() {
    assert_eq!(verdict("if i < p.n { y[i] = x[i] + 1.0; }"), Ok(0.0));
}

#[test]
fn a_wrong_value_is_red() {
    let what = verdict("if i < p.n { y[i] = x[i] + select(1.0, 1.001, i == 99u); }").unwrap_err();
    assert!(what.contains("worst at 99"), "{what}");
}

#[test]
fn a_nan_is_red() {
    // Not written as a constant: WGSL refuses those.
    assert!(verdict("if i < p.n { y[i] = x[i] + 1.0; } if i == 3u { y[i] = bitcast<f32>(p.n | 0x7fc00000u); }").is_err());
}

#[test]
fn an_unwritten_element_is_red() {
    let what = verdict("if i + 1u < p.n { y[i] = x[i] + 1.0; }").unwrap_err();
    assert!(what.contains("not written"), "{what}");
}

#[test]
fn a_write_past_the_end_is_red() {
    let what = verdict("y[i] = x[min(i, 99u)] + 1.0;").unwrap_err();
    assert!(what.contains("past the end"), "{what}");
}

#[test]
fn trace_names_the_first_wrong_node() {
    let mut g = Graph::new();
    let x = g.input("x", TensorType::f32([100]));
    let good = AddOne { body: "if i < p.n { y[i] = x[i] + 1.0; }" };
    let bad = AddOne { body: "if i < p.n { y[i] = x[i] + 2.0; }" };
    let a = g.apply(good.clone(), &[x]);
    let b = g.scoped("here", |g| g.apply(bad, &[a]));
    let c = g.apply(good, &[b]);
    g.output("c", c);
    let inputs = Values::from([("x".to_owned(), noise([100], 2))]);
    let (compared, wrong) = trace(gpu(), &g, &inputs, &Values::new(), Tolerance::of(1e-5)).expect("the device works");
    assert_eq!(compared, 1);
    assert!(wrong.is_some_and(|w| w.contains("node 1") && w.contains("`here`")));
}
