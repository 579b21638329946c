//! SMCA-DETR: answers, losses, every gradient and ten AdamW steps against PyTorch, on the CPU twins and on the GPU; and of both
//! kinds of model what training adds, auxiliary queries and dropout, by what they must not change.

mod common;
#[path = "common/hashed.rs"]
#[expect(dead_code, reason = "the goldens of this file hold other things than those of inference")]
mod hashed;

use common::gpu;
use qdetr::data::preprocess::{Batch, Size};
use qdetr::data::{Entry, Pictures, TrainBatch};
use qdetr::graph::{Graph, Params, Plan, PlanOptions, Scratch, Values, fold, fuse, interpret};
use qdetr::models::config::Attention;
use qdetr::models::{BatchSize, ModelConfig, Results, detector, detr, for_training};
use qdetr::nn::{Precision, initialize};
use qdetr::tensor::compare::{Tolerance, compare, compare_floats};
use qdetr::tensor::{DType, Host};
use qdetr::train::criterion::Criterion;
use qdetr::train::groups::GroupConfig;
use qdetr::train::matcher::Targets;
use qdetr::train::optimizer::{OptimizerOptions, Update};
use qdetr::train::{GRADIENT, StepOptions, TrainGraph, Trainer, TrainerOptions, train_graph};
use qdetr::weights::{self, Extras};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SIZE: BatchSize = BatchSize { images: 2, height: 128, width: 160 };
const EXACT: Tolerance = Tolerance { absolute: 1e-4, relative: 1e-4 };
/// Gradients: of the largest of a parameter, but no less than of this.
const GRADIENT_FLOOR: f32 = 1e-2;

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/golden/train").join(file)
}

/// What PyTorch says of one kind of model, and the model.
struct Golden {
    kind: &'static str,
    config: ModelConfig,
    params: Values,
    inputs: Values,
    bytes: Vec<u8>,
}

impl Golden {
    fn read(kind: &'static str) -> Self {
        let checkpoint = weights::load(&path(&format!("{kind}_model.safetensors"))).expect("a checkpoint");
        let config = checkpoint.config.clone().expect("a detector");
        assert_eq!(config.attention, if kind == "smca" { Attention::Smca } else { Attention::Plain });
        let wants = detector::wants(&config).expect("a good configuration");
        let params = weights::fit(checkpoint, wants, Extras::Refuse).expect("all that the model wants");
        let bytes = std::fs::read(path(&format!("{kind}.safetensors"))).expect("the golden is in assets");
        let mut golden = Self { kind, config, params, inputs: Values::new(), bytes };
        golden.inputs = golden.padded_inputs();
        golden
    }

    /// The hashed image under the golden's mask, and a seed.
    fn padded_inputs(&self) -> Values {
        let file = self.file();
        let mask: Vec<u32> = file.tensor("pixel_mask").expect("a mask").data().iter().map(|&b| u32::from(b)).collect();
        let mut inputs = hashed::inputs(SIZE);
        let pixels = inputs["pixel_values"].to_f32().iter().enumerate().map(|(i, v)| v * mask[i / 3] as f32).collect();
        inputs.insert("pixel_values".into(), Host::f32([2, SIZE.height, SIZE.width, 3], pixels));
        inputs.insert("pixel_mask".into(), Host::u32([2, SIZE.height, SIZE.width], mask));
        inputs.insert("seed".into(), Host::u32([1], vec![1]));
        inputs.insert("loss_scale".into(), Host::f32([1], vec![1.0]));
        inputs
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("a safetensors file")
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let tensor = self.file().tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        tensor.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect()
    }

    fn targets(&self) -> Vec<Targets> {
        let labels = self.file().tensor("target/labels").expect("labels").data().chunks(8).map(|b| usize::from(b[0])).collect();
        let boxes = self.floats("target/boxes").chunks(4).map(|b| [b[0], b[1], b[2], b[3]]).collect();
        vec![Targets { labels, boxes }, Targets::default()]
    }

    /// The gradients of the golden by our names and in our layout; those of packed projections come apart.
    fn gradients(&self) -> BTreeMap<String, Host> {
        let file = self.file();
        let names = file.names().into_iter().filter_map(|name| name.strip_prefix("grad/"));
        let mut gradients = BTreeMap::new();
        for name in names {
            let (values, tensor) = (self.floats(&format!("grad/{name}")), file.tensor(&format!("grad/{name}")).expect("it is there"));
            if let Some((block, kind)) = name.split_once("in_proj_") {
                let thirds = ["q_proj", "k_proj", "v_proj"].into_iter().zip(values.chunks(values.len() / 3));
                let mut shape = tensor.shape().to_vec();
                shape[0] /= 3;
                gradients.extend(thirds.map(|(part, v)| (format!("{block}{part}.{kind}"), Host::f32(&shape, v.to_vec()))));
                continue;
            }
            let host = match *tensor.shape() {
                [n, c, h, w] => hashed::channels_last([n, c, h, w], &values),
                _ => Host::f32(tensor.shape(), values),
            };
            gradients.insert(name.to_owned(), host);
        }
        gradients
    }
}

fn goldens() -> [Golden; 2] {
    [Golden::read("detr"), Golden::read("smca")]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum On {
    Twins,
    Gpu,
}

/// Runs a graph; on the GPU with frozen norms folded and all else as in training.
fn run(on: On, graph: &Graph, inputs: &Values, params: &Values) -> Values {
    let inputs: Values = graph.inputs().map(|(name, _)| (name.to_owned(), inputs[name].clone())).collect();
    if on == On::Twins {
        return interpret(graph, &inputs, params);
    }
    let fused = fuse(graph, &|_| false);
    let folded = fold(&fused, &|name| !is_frozen(name));
    let mut values = folded.evaluate(params, &|_| true);
    for name in folded.graph.params().keys() {
        values.entry(name.clone()).or_insert_with(|| params[name].clone());
    }
    let params = Params::upload(gpu(), &values).expect("room for a small model");
    let plan = Plan::compile(gpu(), &folded.graph, &params, &mut Scratch::default(), PlanOptions::default()).expect("a plan");
    plan.call(&inputs).expect("a run")
}

/// Whether a parameter belongs to a frozen norm.
fn is_frozen(name: &str) -> bool {
    name.starts_with("backbone") && (name.contains(".bn") || name.contains("downsample.1"))
}

/// The network for training with its answers as outputs.
fn network(config: &ModelConfig, dropout: f32, query_groups: usize) -> Graph {
    let (net, forward) = for_training(config, (SIZE, Entry::Floats), Precision::F32, dropout, query_groups);
    let mut graph = net.into_parts().0;
    graph.output("logits", forward.logits[0]);
    graph.output("boxes", forward.boxes[0]);
    graph
}

/// Parameters for a network with auxiliary queries: the golden's and fresh ones.
fn with_groups(golden: &Golden, query_groups: usize, seed: u64) -> Values {
    let specs = detector::training_specs(&golden.config, query_groups).expect("a good configuration");
    let mut params = golden.params.clone();
    params.extend(initialize(&specs, seed).into_iter().filter(|(name, _)| name == "query_embed_groups.weight"));
    params
}

fn assert_close(what: &str, found: &Host, expected: &[f32], tolerance: Tolerance) {
    let error = compare_floats(&found.to_f32(), expected, tolerance).unwrap_or_else(|e| panic!("{what}: {e}"));
    println!("{what}: {error:.1e}");
}

#[test]
fn answers_of_all_layers_are_those_of_pytorch() {
    for golden in goldens() {
        let network = network(&golden.config, 0.0, 0);
        for on in [On::Twins, On::Gpu] {
            let found = run(on, &network, &golden.inputs, &golden.params);
            assert_close(&format!("{} {on:?} logits", golden.kind), &found["logits"], &golden.floats("all_logits"), EXACT);
            assert_close(&format!("{} {on:?} boxes", golden.kind), &found["boxes"], &golden.floats("all_boxes"), EXACT);
        }
    }
}

#[test]
fn inference_gives_the_same_answers() {
    for golden in goldens() {
        let (logits, boxes) = (golden.floats("all_logits"), golden.floats("all_boxes"));
        let layers = golden.config.decoder_layers;
        for (precision, tolerance) in [(Precision::F32, EXACT), (Precision::F16, Tolerance::of(3e-2))] {
            if precision == Precision::F16 && !gpu().capabilities().f16 {
                continue;
            }
            let graph = detr(&golden.config, (SIZE, Entry::Floats), precision, Results::Everything).into_parts().0;
            for on in [On::Twins, On::Gpu] {
                let found = run(on, &graph, &golden.inputs, &golden.params);
                for layer in 0..layers {
                    let part = |all: &[f32]| all[layer * all.len() / layers..(layer + 1) * all.len() / layers].to_vec();
                    let what = format!("{} {on:?} {precision:?} layer {layer}", golden.kind);
                    assert_close(&what, &found[&format!("aux_logits.{layer}")], &part(&logits), tolerance);
                    assert_close(&what, &found[&format!("aux_boxes.{layer}")], &part(&boxes), tolerance);
                }
            }
        }
    }
}

fn step_options(golden: &Golden, query_groups: usize) -> StepOptions {
    let criterion = if golden.kind == "smca" { Criterion::SMCA } else { Criterion::DETR };
    StepOptions { precision: Precision::F32, criterion, dropout: 0.0, query_groups, entry: Entry::Floats }
}

/// What goes into the graph of a step, with the matching of some predictions.
fn step_inputs(golden: &Golden, built: &TrainGraph, criterion: Criterion, logits: &[f32], boxes: &[f32]) -> Values {
    let matches = criterion.match_predictions(logits, boxes, &golden.targets(), built.shape).expect("finite predictions");
    let mut inputs = golden.inputs.clone();
    inputs.extend(criterion.targets(&matches, &golden.targets(), built.shape));
    inputs
}

#[test]
fn every_gradient_is_that_of_pytorch() {
    let golden = Golden::read("smca");
    let options = step_options(&golden, 0);
    let built = train_graph(&golden.config, SIZE, options, None, &|_| true);
    let inputs = step_inputs(&golden, &built, options.criterion, &golden.floats("all_logits"), &golden.floats("all_boxes"));
    let expected = golden.gradients();
    assert_eq!(built.trained.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "what is trained");
    for on in [On::Twins, On::Gpu] {
        let found = run(on, &built.graph, &inputs, &golden.params);
        let total = options.criterion.losses(&found, built.shape).expect("finite losses").total;
        assert!((total / golden.floats("loss/total")[0] - 1.0).abs() < 1e-5);
        let mut worst = (0.0, "");
        for (name, expected) in &expected {
            let largest = expected.to_f32().iter().fold(GRADIENT_FLOOR, |a, b| a.max(b.abs()));
            let tolerance = Tolerance { absolute: 1e-4 * largest, relative: 0.0 };
            let found = &found[&format!("{GRADIENT}{name}")];
            let error = compare(found, expected, tolerance).unwrap_or_else(|e| panic!("{on:?} {name}: {e}"));
            worst = if error / largest > worst.0 { (error / largest, name.as_str()) } else { worst };
        }
        println!("{on:?}: {} gradients, the worst {} off by {:.1e} of its largest", expected.len(), worst.1, worst.0);
    }
}

/// A trainer with the original's rules.
fn trainer(golden: &Golden, params: Values, step: StepOptions, rates: [f64; 2], weight_decay: f64) -> Trainer {
    let groups = GroupConfig::detr(&golden.config.backbone, rates, weight_decay);
    let options = TrainerOptions { step, groups, optimizer: OptimizerOptions::default() };
    Trainer::new(gpu(), golden.config.clone(), params, options).expect("a trainer")
}

fn update(step: u64) -> Update {
    Update { step, factor: 1.0, loss_scale: 1.0 }
}

fn batch(golden: &Golden) -> TrainBatch {
    let sizes = vec![Size { width: SIZE.width, height: SIZE.height }; SIZE.images];
    let [pixels, mask] = ["pixel_values", "pixel_mask"].map(|name| golden.inputs[name].clone());
    let batch = Batch { pictures: Pictures::floats(pixels, mask), original: sizes.clone(), resized: sizes };
    TrainBatch { epoch: 0, step: 0, batch, targets: golden.targets(), skipped: Vec::new() }
}

#[test]
fn ten_steps_are_those_of_pytorch() {
    let golden = Golden::read("smca");
    // As tests/golden/train.py has them: learning rates and decay.
    for (run, rates, weight_decay) in [("published", [1e-4, 1e-5], 1e-4), ("strong", [2e-4, 5e-5], 1.0)] {
        let mut trainer = trainer(&golden, golden.params.clone(), step_options(&golden, 0), rates, weight_decay);
        let losses = golden.floats(&format!("steps/{run}/loss"));
        assert_eq!(losses.len(), 11);
        for (step, loss) in losses.into_iter().enumerate() {
            let report = trainer.step(&batch(&golden), 0, update(step as u64)).expect("a step");
            assert!((report.losses.total - loss).abs() < 1e-4, "{run}, step {step}: {} for {loss}", report.losses.total);
        }
    }
}

/// The object queries' part of predictions `[layers · images, groups · n, ..]`.
fn first_group(all: &Host, groups: usize) -> Vec<f32> {
    let [_, queries, width] = all.shape().blc();
    all.to_f32().chunks(queries * width).flat_map(|image| image[..queries / groups * width].to_vec()).collect()
}

#[test]
fn auxiliary_queries_change_nothing_for_the_others() {
    for golden in goldens() {
        let graph = network(&golden.config, 0.0, 2);
        for on in [On::Twins, On::Gpu] {
            let found = run(on, &graph, &golden.inputs, &with_groups(&golden, 2, 3));
            for (name, expected) in [("logits", "all_logits"), ("boxes", "all_boxes")] {
                let queries = found[name].shape().blc()[1];
                assert_eq!(queries, 3 * golden.config.queries);
                compare_floats(&first_group(&found[name], 3), &golden.floats(expected), EXACT).unwrap_or_else(|e| panic!("{name}: {e}"));
            }
        }
    }
}

#[test]
fn auxiliary_queries_learn() {
    let golden = Golden::read("smca");
    let (params, options) = (with_groups(&golden, 2, 3), step_options(&golden, 2));
    let predictions = run(On::Twins, &network(&golden.config, 0.0, 2), &golden.inputs, &params);
    let [logits, boxes] = ["logits", "boxes"].map(|name| predictions[name].to_f32().into_owned());
    let built = train_graph(&golden.config, SIZE, options, None, &|name| name.starts_with("query_embed"));
    let inputs = step_inputs(&golden, &built, options.criterion, &logits, &boxes);
    let name = format!("{GRADIENT}query_embed_groups.weight");
    let [twins, device] = [On::Twins, On::Gpu].map(|on| run(on, &built.graph, &inputs, &params).remove(&name).expect("a gradient"));
    compare(&device, &twins, Tolerance::of(1e-4)).unwrap_or_else(|e| panic!("{e}"));
    let rows = twins.to_f32().chunks(golden.config.d_model).filter(|row| row.iter().any(|v| v.abs() > 1e-7)).count();
    assert_eq!(rows, 2 * golden.config.queries, "every auxiliary query has a gradient");
}

#[test]
fn a_step_with_auxiliary_queries_and_dropout_goes_down() {
    let golden = Golden::read("smca");
    let step = StepOptions { dropout: 0.1, ..step_options(&golden, 2) };
    let mut trainer = trainer(&golden, with_groups(&golden, 2, 3), step, [2e-3, 2e-4], 1e-4);
    let mut steps = (0..12).map(|seed| trainer.step(&batch(&golden), seed, update(seed.into())).expect("a step").losses);
    let first = steps.next().expect("a step");
    let last = steps.last().expect("a step");
    assert!(first.auxiliary > 0.0);
    assert!(last.total < first.total && last.auxiliary < first.auxiliary, "{first:?} to {last:?}");
}

#[test]
fn a_checkpoint_with_auxiliary_queries_is_a_detector() {
    let golden = Golden::read("smca");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("trained.safetensors");
    weights::save(&file, Some(&golden.config), &with_groups(&golden, 2, 3), &BTreeMap::new()).expect("it is written");
    let checkpoint = weights::load(&file).expect("a checkpoint");
    assert_eq!(checkpoint.config.as_ref(), Some(&golden.config));
    let wants = detector::wants(&golden.config).expect("a good configuration");
    assert_eq!(weights::fit(checkpoint, wants, Extras::Refuse).expect("it fits"), golden.params);
}

#[test]
fn dropout_depends_on_the_seed_alone() {
    let golden = Golden::read("smca");
    let graph = network(&golden.config, 0.1, 0);
    let with_seed = |on: On, seed: u32| {
        let mut inputs = golden.inputs.clone();
        inputs.insert("seed".into(), Host::u32([1], vec![seed]));
        inputs.insert("loss_scale".into(), Host::f32([1], vec![1.0]));
        run(on, &graph, &inputs, &golden.params).remove("logits").expect("it is there")
    };
    let (twins, device) = (with_seed(On::Twins, 7), with_seed(On::Gpu, 7));
    compare(&device, &twins, EXACT).unwrap_or_else(|e| panic!("the device drops others: {e}"));
    assert_eq!(device, with_seed(On::Gpu, 7));
    assert!(compare(&device, &with_seed(On::Gpu, 8), Tolerance::of(1e-2)).is_err());
    assert!(compare_floats(&device.to_f32(), &golden.floats("all_logits"), Tolerance::of(1e-2)).is_err());
}

#[test]
fn everything_is_dropped_where_detr_drops() {
    let (net, _) = for_training(&Golden::read("smca").config, (SIZE, Entry::Floats), Precision::F32, 0.1, 0);
    // Each encoder layer: map, update, hidden, update; each decoder layer: two maps, three updates, hidden.
    let (encoder_layers, decoder_layers) = (1, 2);
    let nodes = net.nodes().iter().map(|node| format!("{:?}", node.op));
    let dropping: Vec<String> = nodes.filter(|op| op.contains("Dropout {")).collect();
    assert_eq!(dropping.len(), 4 * encoder_layers + 6 * decoder_layers);
    let mut distinct = dropping.clone();
    distinct.sort();
    distinct.dedup_by_key(|op| op.split("salt: ").nth(1).expect("a place").to_owned());
    assert_eq!(distinct.len(), dropping.len(), "every place has a salt of its own");
    assert_eq!(net.ty(net.training().expect("for training").seed).dtype, DType::U32);
}
