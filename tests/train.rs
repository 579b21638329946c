//! Training: gradients and steps against PyTorch, repeatable, frugal with read-backs.

mod common;
#[path = "common/hashed.rs"]
#[expect(dead_code, reason = "the goldens of whole models are for other tests")]
mod hashed;

use common::gpu;
use image::{Rgb, RgbImage};
use qdetr::data::preprocess::{Batch, Sample, Size};
use qdetr::data::{Entry, Pictures, TrainBatch};
use qdetr::graph::{Params, Plan, PlanOptions, Scratch, Values, fold, fuse, interpret};
use qdetr::models::{BatchSize, ModelConfig, detector};
use qdetr::nn::Precision;
use qdetr::tensor::Host;
use qdetr::tensor::compare::{Tolerance, compare};
use qdetr::train::criterion::{Criterion, Matches};
use qdetr::train::groups::GroupConfig;
use qdetr::train::matcher::{Pair, Targets};
use qdetr::train::optimizer::{OptimizerOptions, Update};
use qdetr::train::{GRADIENT, StepOptions, TrainGraph, Trainer, TrainerOptions, train_graph};
use safetensors::SafeTensors;
use std::path::Path;

const OPTIONS: StepOptions =
    StepOptions { precision: Precision::F32, criterion: Criterion::DETR, dropout: 0.0, query_groups: 0, entry: Entry::Floats };

/// PyTorch's training of a small DETR, in this crate's layout and under its names.
struct Golden {
    config: ModelConfig,
    runs: serde_json::Value,
    tensors: Values,
    batch: TrainBatch,
}

impl Golden {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/golden/train/detr.safetensors");
        let bytes = std::fs::read(path).expect("the golden is in assets");
        let (_, metadata) = SafeTensors::read_metadata(&bytes).expect("a safetensors file");
        let about: serde_json::Value =
            serde_json::from_str(&metadata.metadata().as_ref().expect("metadata")["config"]).expect("a configuration");
        let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let mask = file.tensor("pixel_mask").expect("a mask");
        let (dims, mask): (Vec<usize>, Vec<u32>) = (mask.shape().to_vec(), mask.data().iter().map(|&v| v.into()).collect());
        let mut tensors = Values::new();
        for (name, view) in file.tensors().iter().filter(|(name, _)| name != "pixel_mask") {
            tensors.extend(ours(name, view));
        }
        let batch = batch([dims[0], dims[1], dims[2]], mask, targets(&tensors));
        Self { config: serde_json::from_value(about["config"].clone()).expect("a model"), runs: about["runs"].clone(), tensors, batch }
    }

    fn size(&self) -> BatchSize {
        BatchSize::of(&self.batch.batch.pictures)
    }

    fn start(&self) -> Values {
        hashed::params(&detector::specs(&self.config).expect("a good configuration"))
    }
}

/// A tensor under our name, packed projections as three.
fn ours(name: &str, view: &safetensors::tensor::TensorView<'_>) -> Vec<(String, Host)> {
    let shape = view.shape();
    if view.dtype() == safetensors::Dtype::I64 {
        let values = view.data().chunks(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")) as u32).collect();
        return vec![(name.to_owned(), Host::u32(shape, values))];
    }
    let values: Vec<f32> = view.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect();
    if let Some((block, kind)) = name.split_once("in_proj_") {
        let third = [&[shape[0] / 3], &shape[1..]].concat();
        let parts = values.chunks(values.len() / 3).zip(["q", "k", "v"]);
        return parts.map(|(part, which)| (format!("{block}{which}_proj.{kind}"), Host::f32(&third, part.to_vec()))).collect();
    }
    match *shape {
        [n, c, h, w] if name.starts_with("grad/") => vec![(name.to_owned(), hashed::channels_last([n, c, h, w], &values))],
        [] => vec![(name.to_owned(), Host::f32([1], values))],
        _ => vec![(name.to_owned(), Host::f32(shape, values))],
    }
}

fn targets(tensors: &Values) -> Vec<Targets> {
    let boxes = tensors["target/boxes"].to_f32().chunks(4).map(|b| [b[0], b[1], b[2], b[3]]).collect();
    let labels = tensors["target/labels"].as_u32().iter().map(|&l| l as usize).collect();
    vec![Targets { labels, boxes }, Targets::default()]
}

fn batch([images, height, width]: [usize; 3], mask: Vec<u32>, targets: Vec<Targets>) -> TrainBatch {
    let pixels = &hashed::inputs(BatchSize { images, height, width })["pixel_values"];
    let pixels = pixels.to_f32().iter().enumerate().map(|(i, &v)| v * mask[i / 3] as f32).collect();
    let sizes = vec![Size { width, height }; images];
    let pictures = Pictures::floats(Host::f32([images, height, width, 3], pixels), Host::u32([images, height, width], mask));
    let batch = Batch { pictures, original: sizes.clone(), resized: sizes };
    TrainBatch { epoch: 0, step: 0, batch, targets, skipped: Vec::new() }
}

/// What goes into the graph of a step, with PyTorch's matching.
fn inputs(golden: &Golden, built: &TrainGraph) -> Values {
    let integers = |name: String| golden.tensors[&name].as_u32().iter().map(|&v| v as usize).collect::<Vec<_>>();
    let pairs = |layer: usize| {
        let (queries, objects) = (integers(format!("match/{layer}/queries")), integers(format!("match/{layer}/objects")));
        queries.into_iter().zip(objects).map(|(query, target)| Pair { query, target }).collect::<Vec<_>>()
    };
    let matches: Matches = (0..built.shape.layers).map(|layer| vec![pairs(layer), Vec::new()]).collect();
    let mut inputs = OPTIONS.criterion.targets(&matches, &golden.batch.targets, built.shape);
    inputs.insert("seed".into(), Host::u32([1], vec![0]));
    inputs.insert("loss_scale".into(), Host::f32([1], vec![1.0]));
    inputs.extend(golden.batch.batch.pictures.inputs().map(|(name, host)| (name.to_owned(), host.clone())));
    inputs
}

/// Compares every gradient by name; some are zero by nature, and then rounding remains.
fn assert_gradients_agree(found: &Values, golden: &Golden) {
    let expected: Vec<(&str, &Host)> = golden.tensors.iter().filter_map(|(name, host)| Some((name.strip_prefix("grad/")?, host))).collect();
    assert!(expected.len() > 60, "{}", expected.len());
    let largest_of = |host: &Host| host.to_f32().iter().fold(0f32, |m, v| m.max(v.abs()));
    let largest = expected.iter().map(|(_, host)| largest_of(host)).fold(0f32, f32::max);
    // PyTorch has the three projections as one tensor: the keys' bias is zero by nature beside the others.
    let packed = |name: &str| ["q_proj", "k_proj", "v_proj"].map(|part| golden.tensors.get(&format!("grad/{}", projection(name, part))));
    for (name, expected) in expected {
        let found = &found[&format!("{GRADIENT}{name}")];
        let beside = packed(name).into_iter().flatten().map(largest_of).fold(largest_of(expected), f32::max);
        let absolute = 1e-4 * beside.max(1e-4 * largest);
        compare(found, expected, Tolerance { absolute, relative: 0.0 }).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

/// The name of another of an attention's projections.
fn projection(name: &str, to: &str) -> String {
    ["q_proj", "k_proj", "v_proj"].iter().fold(name.to_owned(), |name, from| name.replace(from, to))
}

#[test]
fn every_gradient_is_pytorchs_on_the_interpreter() {
    let golden = Golden::read();
    let built = train_graph(&golden.config, golden.size(), OPTIONS, None, &|_| true);
    let found = interpret(&built.graph, &inputs(&golden, &built), &golden.start());
    assert_gradients_agree(&found, &golden);
    let losses = OPTIONS.criterion.losses(&found, built.shape).expect("finite losses");
    assert!((losses.total / golden.tensors["loss/total"].to_f32()[0] - 1.0).abs() < 1e-5);
}

#[test]
fn every_gradient_is_pytorchs_on_the_gpu() {
    let golden = Golden::read();
    let built = train_graph(&golden.config, golden.size(), OPTIONS, None, &|_| true);
    let fused = fuse(&built.graph, &|name| built.trained.contains_key(name));
    let folded = fold(&fused, &|name| built.trained.contains_key(name));
    let mut params = folded.evaluate(&golden.start(), &|_| true);
    params.extend(golden.start().into_iter().filter(|(name, _)| built.trained.contains_key(name)));
    let params = Params::upload(gpu(), &params).expect("room for a small model");
    let plan = Plan::compile(gpu(), &folded.graph, &params, &mut Scratch::default(), PlanOptions::default()).expect("a plan");
    assert_gradients_agree(&plan.call(&inputs(&golden, &built)).expect("a run"), &golden);
}

/// A trainer with the original's rules.
fn trainer(golden: &Golden, rates: [f64; 2], weight_decay: f64, clip: f32) -> Trainer {
    trainer_with(OPTIONS, golden, rates, weight_decay, clip)
}

fn trainer_with(step: StepOptions, golden: &Golden, rates: [f64; 2], weight_decay: f64, clip: f32) -> Trainer {
    let groups = GroupConfig::detr(&golden.config.backbone, rates, weight_decay);
    let optimizer = OptimizerOptions { clip: Some(clip), ..OptimizerOptions::default() };
    Trainer::new(gpu(), golden.config.clone(), golden.start(), TrainerOptions { step, groups, optimizer }).expect("a trainer")
}

fn update(step: usize) -> Update {
    Update { step: step as u64, factor: 1.0, loss_scale: 1.0 }
}

#[test]
fn ten_steps_are_pytorchs() {
    let golden = Golden::read();
    for (run, settings) in golden.runs.as_object().expect("runs") {
        let number = |name: &str| settings[name].as_f64().expect("a number");
        let rates = [number("lr"), number("lr_backbone")];
        let mut trainer = trainer(&golden, rates, number("weight_decay"), number("clip") as f32);
        let losses = golden.tensors[&format!("steps/{run}/loss")].to_f32();
        let norms = golden.tensors[&format!("steps/{run}/grad_norm")].to_f32();
        assert_eq!(losses.len(), 11);
        for (step, &loss) in losses.iter().enumerate() {
            let report = trainer.step(&golden.batch, 0, update(step)).expect("a step");
            assert!((report.losses.total - loss).abs() < 1e-4, "{run}, step {step}: {} for {loss}", report.losses.total);
            if let Some(norm) = norms.get(step) {
                assert!(
                    (report.grad_norm.expect("a finite gradient") / norm - 1.0).abs() < 1e-3,
                    "{run}, step {step}: norm {} for {norm}",
                    report.grad_norm.unwrap()
                );
            }
        }
    }
}

#[test]
fn a_step_reads_back_twice_and_allocates_nothing() {
    let golden = Golden::read();
    let mut trainer = trainer(&golden, [1e-4, 1e-5], 1e-4, 0.1);
    let mut step = || trainer.step(&golden.batch, 0, update(0)).expect("a step");
    step();
    let counters = || {
        let c = gpu().counters();
        [c.read_backs(), c.buffers(), c.bind_groups(), c.pipelines()]
    };
    let before = counters();
    step();
    let after = counters();
    // Other tests of this process run beside only under a runner that has threads for tests; nextest has processes.
    assert_eq!(after[0] - before[0], 2);
    assert_eq!(after[1..], before[1..]);
}

#[test]
fn the_same_steps_give_the_same_bits_with_batches_uploaded_ahead_or_not() {
    let golden = Golden::read();
    let batch = |step| TrainBatch { step, ..golden.batch.clone() };
    let run = |ahead: bool| {
        let mut trainer = trainer(&golden, [1e-3, 1e-4], 1e-4, 0.1);
        for step in 0..3 {
            let pending = trainer.submit(&[(&batch(step), step as u32)], update(step as usize)).expect("a step");
            if ahead {
                trainer.upload(&batch(step + 1), step as u32 + 1);
            }
            trainer.finish(pending).expect("a step");
        }
        (trainer.parameters().expect("parameters"), trainer.state().expect("state"))
    };
    let (one, two, ahead) = (run(false), run(false), run(true));
    assert!(one == two && one == ahead);
    assert!(one.0 != golden.start());
}

#[test]
fn bytes_train_as_the_floats_they_stand_for() {
    let golden = Golden::read();
    let BatchSize { height, width, .. } = golden.size();
    let sample = |(width, height): (usize, usize)| {
        let image = RgbImage::from_fn(width as u32, height as u32, |x, y| Rgb([(x * 7) as u8, (y * 5) as u8, 90]));
        Sample { original: Size::of(&image), image }
    };
    let bytes = Batch::new(&[sample((width, height - 9)), sample((width - 7, height))], Some(Size { width, height })).expect("a batch");
    let floats = Batch { pictures: Pictures::floats(bytes.pictures.normalized(), bytes.pictures.mask()), ..bytes.clone() };
    for precision in [Precision::F32, Precision::F16].into_iter().filter(|precision| precision.check(gpu()).is_ok()) {
        let [one, other] = [&bytes, &floats].map(|batch| {
            let step = StepOptions { precision, entry: batch.pictures.entry(), ..OPTIONS };
            let mut trainer = trainer_with(step, &golden, [1e-3, 1e-4], 1e-4, 0.1);
            let batch = TrainBatch { batch: batch.clone(), ..golden.batch.clone() };
            let losses = (0..2).map(|i| trainer.step(&batch, 0, update(i)).expect("a step").losses).collect::<Vec<_>>();
            (losses, trainer.parameters().expect("parameters"))
        });
        assert!(one == other && one.1 != golden.start(), "{precision:?}");
    }
}

#[test]
fn batches_of_one_update_are_one_large_batch_where_they_have_as_many_objects() {
    let golden = Golden::read();
    let mut whole = golden.batch.clone();
    whole.targets[1] = whole.targets[0].clone();
    let mut large = trainer(&golden, [1e-4, 1e-5], 1e-4, 0.1);
    let groups = GroupConfig::detr(&golden.config.backbone, [1e-4, 1e-5], 1e-4);
    let optimizer = OptimizerOptions { accumulate: 2, ..OptimizerOptions::default() };
    let options = TrainerOptions { step: OPTIONS, groups, optimizer };
    let mut small = Trainer::new(gpu(), golden.config.clone(), golden.start(), options).expect("a trainer");
    let parts = [whole.single(0), whole.single(1)];
    // Twice: the second group of batches has to forget the first.
    for step in 0..2 {
        let update = Update { loss_scale: 1024.0, ..update(step) };
        let expected = large.step(&whole, 0, update).expect("a step");
        let found = small.step_of_group(&[(&parts[0], 0), (&parts[1], 0)], update).expect("a step");
        assert!((found.losses.total / expected.losses.total - 1.0).abs() < 1e-5, "{found:?} {expected:?}");
        let norms = [found.grad_norm, expected.grad_norm].map(|norm| norm.expect("a finite gradient"));
        assert!((norms[0] / norms[1] - 1.0).abs() < 1e-4, "{norms:?}");
    }
    // The moments tell more of the gradients than parameters behind AdamW, which knows their signs above all.
    let (found, expected) = (small.state().expect("state"), large.state().expect("state"));
    let largest = |host: &Host| host.to_f32().iter().fold(0f32, |m, v| m.max(v.abs()));
    for (name, expected) in expected.iter().filter(|(name, _)| name.starts_with("first.")) {
        let tolerance = Tolerance { absolute: 1e-3 * largest(expected) + 1e-8, relative: 0.0 };
        compare(&found[name], expected, tolerance).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}
