//! Kernels chosen by measurement: kept, read back, used when asked for, and forgotten as soon as they are other kernels.

#[path = "common/command.rs"]
mod command;
mod common;
#[path = "common/hashed.rs"]
mod hashed;

use command::{Run, finish, qdetr, run, tiny_model};
use common::gpu;
use hashed::golden;
use qdetr::gpu::{Dispatch, Gpu, Options, Tuned};
use qdetr::graph::check::{Case, noise};
use qdetr::graph::{Graph, Op, Params, Plan, PlanOptions, Scratch, Values, node_name};
use qdetr::kernels::epilogue::Epilogue;
use qdetr::kernels::integer;
use qdetr::kernels::linear::Linear;
use qdetr::models::{Detector, Results, detector};
use qdetr::nn::Precision;
use qdetr::tensor::TensorType;
use qdetr::tensor::compare::{Tolerance, compare};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The kernels of a node on the device of the tests.
fn kernels(op: &dyn Op, types: &[TensorType]) -> Vec<Dispatch> {
    let mut kernels = op.kernels(types, &op.outputs(types), gpu().capabilities());
    kernels.retain(|kernel| gpu().capabilities().allows(kernel.tier));
    kernels
}

/// Chooses the last kernel of every node of some graphs, writes that, and reads it back.
fn choose_last<'a>(graphs: impl IntoIterator<Item = &'a Graph>, file: &Path) {
    let mut tuned = Tuned::default();
    for graph in graphs {
        for node in graph.nodes() {
            let types = graph.types(&node.inputs);
            let kernels = kernels(&*node.op, &types);
            tuned.choose(gpu(), node_name(&*node.op, &types), &kernels, kernels.len() - 1);
        }
    }
    tuned.write(file).expect("the folder can be written");
    assert!(tuned != Tuned::default() && Tuned::read(file) == tuned);
}

/// The device of the tests, with the choices of a file.
fn tuned_gpu(file: &Path) -> Gpu {
    let options = Options { checked: true, no_disk_cache: true, tuned: Some(file.to_owned()), ..Options::default() };
    Gpu::open(&options).expect("a device")
}

fn compiled(gpu: &Gpu, graph: &Graph, variant: Option<usize>) -> Plan {
    let params = Params::upload(gpu, &Values::new()).expect("the device works");
    Plan::compile(gpu, graph, &params, &mut Scratch::default(), PlanOptions { variant, ..PlanOptions::default() }).expect("a plan")
}

/// A product whose kernels differ in their grids.
fn product() -> (Graph, Values) {
    let mut graph = Graph::new();
    let inputs = Values::from([("w".to_owned(), noise([70, 8], 2)), ("x".to_owned(), noise([70, 8], 1))]);
    let [x, w] = ["x", "w"].map(|name| graph.input(name, inputs[name].ty()));
    let y = graph.apply(Linear { epilogue: Epilogue::default(), to: None }, &[x, w]);
    graph.output("y", y);
    (graph, inputs)
}

/// The grids of a product's plan, of its first kernel and of its last.
fn grids(plan: &Plan) -> [String; 3] {
    let (text, graph) = (plan.to_string(), plan.graph());
    let kernels = kernels(&*graph.nodes()[0].op, &graph.types(&graph.nodes()[0].inputs));
    let found = &text[text.find('[').expect("a grid")..=text.find(']').expect("its end")];
    [found.to_owned(), format!("{:?}", kernels[0].groups), format!("{:?}", kernels[kernels.len() - 1].groups)]
}

#[test]
fn a_plan_has_the_chosen_kernel_and_computes_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("new/tuned.json");
    let (graph, inputs) = product();
    choose_last([&graph], &file);
    let tuned = tuned_gpu(&file);
    let plans = [compiled(gpu(), &graph, None), compiled(&tuned, &graph, None), compiled(&tuned, &graph, Some(0))];
    let [default, chosen, told] = plans.each_ref().map(grids);
    assert!(default[1] != default[2], "{default:?}");
    assert_eq!((&default[0], &chosen[0], &told[0]), (&default[1], &default[2], &default[1]));
    let [default, chosen, _] = plans.map(|plan| plan.call(&inputs).expect("a run"));
    compare(&chosen["y"], &default["y"], Tolerance::of(1e-5)).expect("the same product");
    let mut back = Tuned::read(&file);
    let node = &graph.nodes()[0];
    let types = graph.types(&node.inputs);
    back.choose(gpu(), node_name(&*node.op, &types), &kernels(&*node.op, &types), 0);
    back.write(&file).expect("the file can be written");
    assert!(!fs::read_to_string(&file).expect("the file").contains("linear"), "the default is no choice");
}

#[test]
fn a_choice_of_something_else_is_the_default() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tuned.json");
    let (graph, _) = product();
    choose_last([&graph], &file);
    let good = fs::read_to_string(&file).expect("the file");
    let json: Value = serde_json::from_str(&good).expect("JSON");
    let (device, choices) = json.as_object().and_then(|all| all.iter().next()).expect("a device");
    let (node, choice) = choices.as_object().and_then(|all| all.iter().next()).expect("a choice");
    let text = choice["text"].as_str().expect("a number");
    let kernel = format!("\"kernel\": {}", choice["kernel"]);
    for (what, content) in [
        ("another text", good.replace(text, "0123456789abcdef")),
        ("another driver", good.replace(device, &device.replace(" tier", ".1 tier"))),
        ("other types", good.replace("70, 8", "71, 8")),
        ("no such kernel", good.replace(&kernel, "\"kernel\": 99")),
        ("another kernel's number", good.replace(&kernel, "\"kernel\": 0")),
        ("a negative kernel", good.replace(&kernel, "\"kernel\": -1")),
        ("half a file", good[..good.len() / 2].to_owned()),
        ("another file", "[1, 2]".to_owned()),
        ("nothing", String::new()),
    ] {
        assert!(content != good, "{what}: {node}");
        fs::write(&file, content).expect("it is written");
        let [found, default, _] = grids(&compiled(&tuned_gpu(&file), &graph, None));
        assert_eq!(found, default, "{what}");
    }
    for nothing in [folder.path().to_owned(), folder.path().join("none.json")] {
        assert_eq!(Tuned::read(&nothing), Tuned::default());
    }
    fs::write(&file, good).expect("it is written");
    let [found, _, last] = grids(&compiled(&tuned_gpu(&file), &graph, None));
    assert_eq!(found, last);
}

#[test]
fn codes_are_the_same_to_the_bit() {
    let graph_of = |case: &Case| {
        let mut graph = Graph::new();
        let inputs: Vec<_> = case.inputs.iter().enumerate().map(|(i, host)| graph.input(&format!("{i:02}"), host.ty())).collect();
        let outputs = graph.apply_all(case.op.clone(), &inputs);
        outputs.iter().enumerate().for_each(|(i, &output)| graph.output(&format!("{i:02}"), output));
        graph
    };
    let mut cases = integer::cases();
    cases.retain(|case| ["integer_linear", "integer_conv"].contains(&case.op.name()) && !case.needs_f16());
    let cases: Vec<Case> = cases.iter().step_by(cases.len().div_ceil(12)).cloned().collect();
    let graphs: Vec<Graph> = cases.iter().map(graph_of).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tuned.json");
    choose_last(&graphs, &file);
    let tuned = tuned_gpu(&file);
    let mut changed = 0;
    for (case, graph) in cases.iter().zip(&graphs) {
        let inputs: Values = case.inputs.iter().enumerate().map(|(i, host)| (format!("{i:02}"), host.clone())).collect();
        let plans = [gpu(), &tuned].map(|gpu| compiled(gpu, graph, None));
        changed += usize::from(plans[0].to_string() != plans[1].to_string());
        let [default, found] = plans.map(|plan| plan.call(&inputs).expect("a run"));
        for (name, default) in &default {
            compare(&found[name], default, Tolerance::EXACT).unwrap_or_else(|e| panic!("{}: {e}", case.name()));
        }
    }
    assert!(changed > 3, "{changed} of {} plans have other kernels", cases.len());
}

/// The command with a cache folder.
fn cached<'a>(folder: &Path, args: impl IntoIterator<Item = &'a str>, tuned: &str) -> Run {
    finish(qdetr(args).env("QDETR_CACHE", folder).env("QDETR_TUNED", tuned))
}

#[test]
fn a_model_uses_its_choices_when_it_is_told_to_and_answers_as_before() {
    let golden = golden("hf_basic/io.safetensors");
    let params = hashed::params(&detector::specs(&golden.config).expect("a good configuration"));
    let detector =
        |gpu: &Gpu| Detector::new(gpu, golden.config.clone(), params.clone(), Precision::F32, Results::Answers).expect("a detector");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tuned.json");
    let default = detector(gpu()).plan(golden.size).expect("a plan").to_string();
    choose_last([detector(gpu()).plan(golden.size).expect("a plan").graph()], &file);
    let mut tuned = detector(&tuned_gpu(&file));
    let text = tuned.plan(golden.size).expect("a plan").to_string();
    assert!(text != default);
    let found = tuned.run(&golden.inputs["pixel_values"], &golden.inputs["pixel_mask"]).expect("a run");
    for name in ["logits", "pred_boxes"] {
        compare(&found[name], &golden.answers[name], Tolerance { absolute: 1e-4, relative: 0.0 }).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let model = tiny_model().display().to_string();
    let (size, batch) = (format!("{}x{}", golden.size.height, golden.size.width), golden.size.images.to_string());
    let plan = ["plan", "--model", &model, "--size", &size, "--batch", &batch];
    for (more, variable, expected) in [(None, "", &default), (None, "0", &default), (None, "1", &text), (Some("--tuned"), "", &text)] {
        let plan = cached(folder.path(), plan.into_iter().chain(more), variable);
        assert!(plan.code == Some(0) && plan.out == *expected, "{more:?}, {variable}: {plan:?}\nis not\n{expected}");
    }
}

#[test]
fn the_command_keeps_what_it_measures_and_forgets_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cache, file) = (folder.path().join("cache"), folder.path().join("cache/tuned.json"));
    let model = tiny_model().display().to_string();
    let tune = ["tune", "--model", &model, "--size", "33x49", "--runs", "1"];
    let report = cached(&cache, tune.into_iter().chain(["--json"]), "").json();
    let nodes = report["nodes"].as_array().expect("nodes");
    assert!(nodes.len() > 5 && nodes.iter().all(|node| node["kernels"].as_array().is_some_and(|kernels| kernels.len() > 1)), "{report}");
    assert!(nodes.iter().flat_map(|node| node["kernels"].as_array()).flatten().all(|kernel| kernel["wrong"].is_null()), "{report}");
    assert!(report["before_us"].as_f64() >= report["after_us"].as_f64() && report["after_us"].as_f64() > Some(0.0), "{report}");
    let kept = |file: &Path| -> usize {
        let all: Value = serde_json::from_str(&fs::read_to_string(file).expect("choices")).expect("JSON");
        all.as_object().into_iter().flatten().filter_map(|(_, choices)| choices.as_object()).map(serde_json::Map::len).sum()
    };
    assert_eq!(kept(&file), nodes.iter().filter(|node| node["chosen"] != 0).count());
    let text = cached(&cache, tune, "1");
    assert!(text.code == Some(0) && text.out.contains("kinds of node changed") && text.out.contains("tuned.json"), "{text:?}");
    for said in ["removed", "nothing"] {
        let forgotten = cached(&cache, ["tune", "--forget"], "1");
        assert!(forgotten.code == Some(0) && forgotten.out.contains(said) && !file.exists(), "{forgotten:?}");
    }
    // A file where a folder should be, and no folder at all.
    let blocked = folder.path().join("blocked");
    fs::write(&blocked, "").expect("it is written");
    cached(&blocked, tune, "").fails(1, &["blocked", "QDETR_CACHE"]);
    run(tune).fails(2, &["QDETR_CACHE"]);
}
