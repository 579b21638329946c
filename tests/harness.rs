//! The checkers themselves: wrong kernels on purpose must turn them red.

mod common;

use common::gpu;
use qdetr::gpu::shader::Source;
use qdetr::gpu::{Capabilities, Dispatch, Words};
use qdetr::graph::check::{Case, check_case, noise, trace};
use qdetr::graph::{Arena, Graph, Layout, Op, Params, Plan, PlanOptions, Scratch, Values};
use qdetr::tensor::compare::Tolerance;
use qdetr::tensor::{Host, TensorType};
use std::sync::Arc;

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

/// Adds one to its input, in place.
#[derive(Clone, Debug)]
struct Increment;

impl Op for Increment {
    fn name(&self) -> &'static str {
        "increment"
    }
    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        vec![inputs[0]]
    }
    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        AddOne { body: "" }.reference(inputs, outputs)
    }
    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let text = "struct Params { n: u32 }
            @group(0) @binding(0) var<uniform> p: Params;
            @group(0) @binding(1) var<storage, read_write> y: array<f32>;
            @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) { if id.x < p.n { y[id.x] += 1.0; } }";
        let n = inputs[0].shape.len();
        vec![Dispatch::new(Source { name: "increment", text }, 1).params(Words::of([n])).bind([]).over_items(n, 64)]
    }
    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0)]
    }
}

#[test]
fn an_update_in_place_is_checked_like_any_kernel() {
    let case = Case::new(Increment, vec![noise([100], 3)], Tolerance::of(1e-6));
    assert!(check_case(gpu(), &case).expect("the device works").iter().all(|o| o.result.is_ok()));
}

#[test]
fn segments_let_the_host_in_and_arenas_outlive_a_run() {
    let (ty, n) = (TensorType::f32([100]), 100);
    let mut g = Graph::new();
    let weight = g.param("weight", ty);
    let first = g.apply(Increment, &[weight]);
    let copy = g.apply(AddOne { body: "if i < p.n { y[i] = x[i] + 1.0; }" }, &[first]);
    g.output("seen", copy);
    g.next_segment();
    let answer = g.input("answer", ty);
    let result = g.apply(AddOne { body: "if i < p.n { y[i] = x[i] + 1.0; }" }, &[answer]);
    g.output("kept", result);
    let layout = Arc::new(Layout::new([("weight".to_owned(), ty), ("other".to_owned(), TensorType::f32([3]))]));
    let (weights, results) =
        (Arena::new(gpu(), "weights", &layout).expect("memory"), Arena::new(gpu(), "results", &layout).expect("memory"));
    weights.write(gpu(), &Values::from([("weight".to_owned(), Host::f32([n], vec![5.0; n]))]));
    let mut links = weights.links("");
    links.insert("kept".to_owned(), results.links("")["weight"].clone());
    let params = Params::upload(gpu(), &Values::new()).expect("memory");
    let plan = Plan::compile_linked(gpu(), &g, &params, &links, &mut Scratch::default(), PlanOptions::default()).expect("compiles");
    for round in 1..=2 {
        plan.run_segment(0).expect("runs");
        let seen = plan.read_segment(0).expect("reads").remove("seen").expect("an output of the first segment");
        assert_eq!(seen.to_f32()[n - 1], 6.0 + round as f32);
        plan.write("answer", &seen);
        plan.run_segment(1).expect("runs");
        assert!(plan.read_segment(1).expect("reads").is_empty(), "a linked output is not read back");
        assert_eq!(results.read(gpu()).expect("reads")["weight"].to_f32()[0], 7.0 + round as f32);
    }
    assert_eq!(weights.read(gpu()).expect("reads")["weight"].to_f32()[7], 7.0);
    assert_eq!(weights.read(gpu()).expect("reads")["other"].to_f32().as_ref(), [0.0; 3]);
}
