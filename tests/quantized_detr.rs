//! A whole DETR on codes against PyTorch's fake quantization: answers, and gradients of step sizes, zero points and weights, on the
//! twins and on the GPU.

mod common;
#[path = "common/hashed.rs"]
#[expect(dead_code, reason = "the golden of this file holds other things than those of inference")]
mod hashed;

use common::gpu;
use qdetr::data::Entry;
use qdetr::graph::{Graph, Params, Plan, PlanOptions, Scratch, Values, Var, fold, fuse, interpret};
use qdetr::kernels::{binary, reduce};
use qdetr::models::{BatchSize, ModelConfig, Results, detr, for_training};
use qdetr::nn::Precision;
use qdetr::rng::HashedUniform;
use qdetr::tensor::Host;
use qdetr::tensor::compare::{Tolerance, compare};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;

const SIZE: BatchSize = BatchSize { images: 2, height: 48, width: 64 };
const ANSWERS: Tolerance = Tolerance { absolute: 1e-3, relative: 0.0 };
/// Of a parameter's largest gradient, which counts as no less than this share of the largest of its kind.
const GRADIENTS: f32 = 1e-3;
const FLOOR: f32 = 1e-2;

/// What PyTorch says, and of what.
struct Golden {
    config: ModelConfig,
    params: Values,
    inputs: Values,
    /// By the golden's names, weights still in PyTorch's layout.
    tensors: BTreeMap<String, Host>,
}

impl Golden {
    fn read() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/golden/train/quantized_detr.safetensors");
        let bytes = std::fs::read(path).expect("the golden file; see assets/golden/README.md");
        let (_, metadata) = SafeTensors::read_metadata(&bytes).expect("the golden file");
        let config = serde_json::from_str(&metadata.metadata().as_ref().expect("metadata")["config"]).expect("a configuration");
        let file = SafeTensors::deserialize(&bytes).expect("the golden file");
        let floats = file.iter().filter(|(_, view)| view.dtype() == Dtype::F32);
        let tensors: BTreeMap<String, Host> =
            floats.map(|(name, view)| (name.to_owned(), Host::f32(view.shape(), bytemuck::pod_collect_to_vec(view.data())))).collect();
        let mask = file.tensor("pixel_mask").expect("a mask").data().iter().map(|&b| u32::from(b)).collect();
        let net = detr(&config, (SIZE, Entry::Floats), Precision::F32, Results::Answers);
        let mut params = hashed::params(net.specs());
        let given: Values =
            tensors.iter().filter_map(|(name, host)| Some((name.strip_prefix("param/")?.to_owned(), host.clone()))).collect();
        let wants = net.specs().keys().filter(|name| qdetr::nn::quantized::is_quantizers(name));
        assert_eq!(given.keys().collect::<Vec<_>>(), wants.collect::<Vec<_>>(), "step sizes and zero points");
        params.extend(given);
        Self { config, params, inputs: inputs(mask), tensors }
    }

    /// Gradients by parameter, in this crate's layout.
    fn gradients(&self) -> impl Iterator<Item = (&str, Host)> {
        let named = self.tensors.iter().filter_map(|(name, host)| Some((name.strip_prefix("grad/")?, host)));
        named.map(|(name, host)| match *host.shape().dims() {
            [n, c, h, w] => (name, hashed::channels_last([n, c, h, w], &host.to_f32())),
            _ => (name, host.clone()),
        })
    }
}

/// The hashed image under a mask.
fn inputs(mask: Vec<u32>) -> Values {
    let mut inputs = hashed::inputs(SIZE);
    let pixels = inputs["pixel_values"].to_f32().iter().enumerate().map(|(i, v)| v * mask[i / 3] as f32).collect();
    inputs.insert("pixel_values".into(), Host::f32([2, SIZE.height, SIZE.width, 3], pixels));
    inputs.insert("pixel_mask".into(), Host::u32([2, SIZE.height, SIZE.width], mask));
    inputs
}

/// A loss whose gradient is hashed: `Σ x · d`.
fn product(graph: &mut Graph, x: Var, name: &str) -> Var {
    let (shape, numbers) = (graph.shape(x), HashedUniform::new(name));
    let d = graph.constant(Host::f32(shape.dims(), (0..shape.len() as u32).map(|i| numbers.at(i)).collect()));
    let product = binary::mul(graph, x, d);
    reduce::total(graph, product)
}

/// The network in training with all that the golden holds as outputs.
fn network(golden: &Golden) -> Graph {
    let (net, forward) = for_training(&golden.config, (SIZE, Entry::Floats), Precision::F32, 0.0, 0);
    let mut graph = net.into_parts().0;
    let (logits, boxes) = (forward.logits[0], forward.boxes[0]);
    graph.output("all_logits", logits);
    graph.output("all_boxes", boxes);
    let [a, b] = [product(&mut graph, logits, "d_logits"), product(&mut graph, boxes, "d_boxes")];
    let loss = binary::add(&mut graph, a, b);
    let names: Vec<&str> = golden.gradients().map(|(name, _)| name).collect();
    let wanted: Vec<Var> = names.iter().map(|&name| graph.params()[name]).collect();
    let gradients = graph.backward(loss, &wanted);
    for (name, gradient) in names.iter().zip(gradients) {
        graph.output(&format!("grad/{name}"), gradient.unwrap_or_else(|| panic!("{name} has no gradient")));
    }
    graph
}

/// Whether training changes a parameter: all but the statistics of frozen norms.
fn is_trained(name: &str) -> bool {
    !(name.starts_with("backbone") && (name.contains(".bn") || name.contains("downsample.1")))
}

/// Runs a network on the GPU as a trainer does.
fn on_gpu(golden: &Golden, graph: &Graph, inputs: &Values) -> Values {
    let fused = fuse(graph, &is_trained);
    let folded = fold(&fused, &is_trained);
    let mut values = folded.evaluate(&golden.params, &|_| true);
    for name in folded.graph.params().keys() {
        values.entry(name.clone()).or_insert_with(|| golden.params[name].clone());
    }
    let params = Params::upload(gpu(), &values).expect("room for a small model");
    let plan = Plan::compile(gpu(), &folded.graph, &params, &mut Scratch::default(), PlanOptions::default()).expect("a plan");
    plan.call(inputs).expect("a run")
}

#[track_caller]
fn assert_answers(what: &str, found: &Host, golden: &Golden, name: &str) {
    let expected = &golden.tensors[name];
    // Layers and images are one dimension here.
    let found = Host::f32(expected.shape().dims(), found.to_f32().into_owned());
    let error = compare(&found, expected, ANSWERS).unwrap_or_else(|e| panic!("{what}, {name}: {e}"));
    println!("{what}, {name}: {error:.1e}");
}

#[test]
fn answers_and_gradients_are_those_of_pytorch() {
    let golden = Golden::read();
    let graph = network(&golden);
    let inputs: Values = golden.inputs.clone().into_iter().chain([("seed".to_owned(), Host::u32([1], vec![1]))]).collect();
    let mut scales: BTreeMap<&str, f32> = BTreeMap::new();
    for (name, gradient) in golden.gradients() {
        let scale = scales.entry(kind(name)).or_default();
        *scale = scale.max(largest(&gradient));
    }
    assert!(golden.gradients().count() > 150 && scales.len() == 3 && scales.values().all(|&s| s > 0.0), "{scales:?}");
    for (what, found) in [("twins", interpret(&graph, &inputs, &golden.params)), ("GPU", on_gpu(&golden, &graph, &inputs))] {
        for name in ["all_logits", "all_boxes"] {
            assert_answers(what, &found[name], &golden, name);
        }
        let mut worst = (0.0, "");
        for (name, expected) in golden.gradients() {
            let scale = largest(&expected).max(FLOOR * scales[kind(name)]);
            let tolerance = Tolerance { absolute: GRADIENTS * scale, relative: 0.0 };
            let error = compare(&found[&format!("grad/{name}")], &expected, tolerance).unwrap_or_else(|e| panic!("{what}, {name}: {e}"));
            worst = if error / scale > worst.0 { (error / scale, name) } else { worst };
        }
        println!("{what}: the worst gradient is that of {}, off by {:.1e} of its largest", worst.1, worst.0);
    }
}

#[test]
fn inference_gives_the_same_answers() {
    let golden = Golden::read();
    let graph = detr(&golden.config, (SIZE, Entry::Floats), Precision::F32, Results::Everything).into_parts().0;
    let fused = fuse(&graph, &|_| false);
    let folded = fold(&fused, &|_| false);
    let params = Params::upload(gpu(), &folded.evaluate(&golden.params, &|_| true)).expect("room for a small model");
    let plan = Plan::compile(gpu(), &folded.graph, &params, &mut Scratch::default(), PlanOptions::default()).expect("a plan");
    for (what, found) in [("twins", interpret(&graph, &golden.inputs, &golden.params)), ("GPU", plan.call(&golden.inputs).expect("a run"))]
    {
        for (name, aux) in [("all_logits", "aux_logits"), ("all_boxes", "aux_boxes")] {
            let layers = (0..golden.config.decoder_layers).flat_map(|i| found[&format!("{aux}.{i}")].to_f32().into_owned());
            let layers: Vec<f32> = layers.collect();
            assert_answers(what, &Host::f32([layers.len()], layers.clone()), &golden, name);
        }
    }
    // What it is about: the float model answers otherwise.
    let (float, low) = (golden.tensors["float_logits"].to_f32(), golden.tensors["all_logits"].to_f32());
    assert!(float.iter().zip(low.iter()).any(|(a, b)| (a - b).abs() > 0.05));
}

/// Step sizes, zero points and weights have gradients of different sizes.
fn kind(name: &str) -> &str {
    match name.rsplit('.').next() {
        Some(last @ ("alpha" | "zero_point")) => last,
        _ => "weight",
    }
}

fn largest(host: &Host) -> f32 {
    host.to_f32().iter().fold(0.0, |m, v| v.abs().max(m))
}
