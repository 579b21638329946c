//! Matching, losses and their gradients against PyTorch, on the CPU twins and on the GPU; and what no golden holds.

mod common;

use common::gpu;
use qdetr::graph::{Graph, Params, Plan, PlanOptions, Scratch, Values, interpret};
use qdetr::tensor::compare::{Tolerance, compare_floats};
use qdetr::tensor::{Host, TensorType};
use qdetr::train::criterion::{ClassLoss, Criterion, Losses, Matches, PredictionShape};
use qdetr::train::matcher::{Pair, Targets};
use safetensors::SafeTensors;
use std::path::Path;

/// What PyTorch says of one kind of model.
struct Golden {
    criterion: Criterion,
    shape: PredictionShape,
    logits: Vec<f32>,
    boxes: Vec<f32>,
    targets: Vec<Targets>,
    bytes: Vec<u8>,
}

impl Golden {
    fn read(kind: &str, criterion: Criterion) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("assets/golden/train/{kind}.safetensors"));
        let bytes = std::fs::read(path).expect("the golden is in assets");
        let shape = PredictionShape { layers: 0, images: 0, groups: 1, queries: 0, classes: 0 };
        let mut golden = Self { criterion, shape, logits: vec![], boxes: vec![], targets: vec![], bytes };
        let dims = golden.file().tensor("all_logits").expect("all_logits").shape().to_vec();
        golden.shape = PredictionShape { layers: dims[0], images: dims[1], groups: 1, queries: dims[2], classes: dims[3] };
        (golden.logits, golden.boxes) = (golden.floats("all_logits"), golden.floats("all_boxes"));
        let boxes = golden.floats("target/boxes").chunks(4).map(|b| [b[0], b[1], b[2], b[3]]).collect();
        golden.targets = vec![Targets { labels: golden.integers("target/labels"), boxes }, Targets::default()];
        golden
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("a safetensors file")
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let tensor = self.file().tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        tensor.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect()
    }

    fn integers(&self, name: &str) -> Vec<usize> {
        let tensor = self.file().tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        tensor.data().chunks(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")) as usize).collect()
    }

    fn matches(&self) -> Matches {
        self.criterion.match_predictions(&self.logits, &self.boxes, &self.targets, self.shape).expect("finite predictions")
    }
}

fn goldens() -> [Golden; 2] {
    [Golden::read("detr", Criterion::DETR), Golden::read("smca", Criterion::SMCA)]
}

/// The losses, and the gradients of logits and boxes, of some predictions under a matching.
struct Answer {
    losses: Losses,
    d_logits: Vec<f32>,
    d_boxes: Vec<f32>,
}

#[derive(Clone, Copy, PartialEq)]
enum On {
    Twins,
    Gpu,
}

fn answer(on: On, criterion: &Criterion, shape: PredictionShape, logits: &[f32], boxes: &[f32], targets: Values) -> Answer {
    let rows = [shape.layers * shape.images, shape.queries];
    let mut g = Graph::new();
    let of_logits = g.input("logits", TensorType::f32([rows[0], rows[1], shape.classes]));
    let of_boxes = g.input("boxes", TensorType::f32([rows[0], rows[1], 4]));
    let total = criterion.append(&mut g, of_logits, of_boxes, shape);
    g.output("total", total);
    for (name, gradient) in ["d_logits", "d_boxes"].into_iter().zip(g.backward(total, &[of_logits, of_boxes])) {
        g.output(name, gradient.expect("a gradient"));
    }
    let mut inputs = targets;
    inputs.insert("logits".into(), Host::f32(g.shape(of_logits).dims(), logits.to_vec()));
    inputs.insert("boxes".into(), Host::f32(g.shape(of_boxes).dims(), boxes.to_vec()));
    let outputs = match on {
        On::Twins => interpret(&g, &inputs, &Values::new()),
        On::Gpu => {
            let params = Params::upload(gpu(), &Values::new()).expect("the device works");
            let plan = Plan::compile(gpu(), &g, &params, &mut Scratch::default(), PlanOptions::default()).expect("the device works");
            plan.call(&inputs).expect("the device works")
        }
    };
    let losses = criterion.losses(&outputs, shape).expect("finite losses");
    let device_total = outputs["total"].to_f32()[0];
    assert!((losses.total - device_total).abs() <= 1e-5 * device_total.abs(), "{} {device_total}", losses.total);
    Answer { losses, d_logits: outputs["d_logits"].to_f32().into_owned(), d_boxes: outputs["d_boxes"].to_f32().into_owned() }
}

fn close(what: &str, found: &[f32], expected: &[f32], relative: f32) {
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let tolerance = Tolerance { absolute: relative * largest, relative };
    compare_floats(found, expected, tolerance).unwrap_or_else(|e| panic!("{what}: {e}"));
}

#[test]
fn every_layer_is_matched_as_pytorch_matches_it() {
    for golden in goldens() {
        let matches = golden.matches();
        assert_eq!(matches.len(), golden.shape.layers);
        for (layer, images) in matches.iter().enumerate() {
            let expected =
                golden.integers(&format!("match/{layer}/queries")).into_iter().zip(golden.integers(&format!("match/{layer}/objects")));
            let expected: Vec<Pair> = expected.map(|(query, target)| Pair { query, target }).collect();
            assert_eq!(images[..], [expected, vec![]]);
        }
    }
}

#[test]
fn every_loss_term_and_every_gradient_is_pytorchs() {
    for golden in goldens() {
        let targets = golden.criterion.targets(&golden.matches(), &golden.targets, golden.shape);
        for on in [On::Twins, On::Gpu] {
            let found = answer(on, &golden.criterion, golden.shape, &golden.logits, &golden.boxes, targets.clone());
            for (layer, terms) in found.losses.layers.iter().enumerate() {
                for (term, value) in [("class", terms.class), ("l1", terms.l1), ("giou", terms.giou)] {
                    let name = format!("loss/{layer}/{term}");
                    close(&name, &[value], &golden.floats(&name), 1e-5);
                }
            }
            close("total", &[found.losses.total], &golden.floats("loss/total"), 1e-5);
            close("d_logits", &found.d_logits, &golden.floats("output_grad/all_logits"), 1e-5);
            close("d_boxes", &found.d_boxes, &golden.floats("output_grad/all_boxes"), 1e-5);
        }
    }
}

#[test]
fn a_batch_without_objects_has_only_class_losses() {
    for golden in goldens() {
        let nothing = [Targets::default(), Targets::default()];
        let matches =
            golden.criterion.match_predictions(&golden.logits, &golden.boxes, &nothing, golden.shape).expect("finite predictions");
        let targets = golden.criterion.targets(&matches, &nothing, golden.shape);
        for on in [On::Twins, On::Gpu] {
            let found = answer(on, &golden.criterion, golden.shape, &golden.logits, &golden.boxes, targets.clone());
            for (layer, terms) in found.losses.layers.iter().enumerate() {
                close("class", &[terms.class], &golden.floats(&format!("empty/{layer}/class")), 1e-5);
                assert_eq!((terms.l1, terms.giou), (0.0, 0.0));
            }
            assert!(found.d_boxes.iter().all(|&d| d == 0.0));
            assert!(found.d_logits.iter().any(|&d| d != 0.0));
        }
    }
}

/// `[rows, queries, width]` with every query standing there `times`.
fn repeated(values: &[f32], queries: usize, width: usize, times: usize) -> Vec<f32> {
    values.chunks(queries * width).flat_map(|row| row.repeat(times)).collect()
}

#[test]
fn groups_that_predict_the_same_lose_the_same_times_their_importance() {
    for golden in goldens() {
        let plain = golden.shape;
        let shape = PredictionShape { groups: 3, queries: 3 * plain.queries, ..plain };
        let criterion = Criterion { auxiliary: 0.5, ..golden.criterion };
        let logits = repeated(&golden.logits, plain.queries, plain.classes, 3);
        let boxes = repeated(&golden.boxes, plain.queries, 4, 3);
        let matches = criterion.match_predictions(&logits, &boxes, &golden.targets, shape).expect("finite predictions");
        assert!(matches.iter().all(|layer| layer[0].len() == 9 && layer[1].is_empty()), "each group matches all three objects");
        let found = answer(On::Gpu, &criterion, shape, &logits, &boxes, criterion.targets(&matches, &golden.targets, shape));
        close("total", &[found.losses.total], &[golden.floats("loss/total")[0] * 1.5], 1e-5);
        close("auxiliary", &[found.losses.auxiliary], &[golden.floats("loss/total")[0] * 0.5], 1e-5);
        close("class of the main group", &[found.losses.layers[0].class], &golden.floats("loss/0/class"), 1e-5);
        let d_main: Vec<f32> = found.d_logits.chunks(3 * plain.queries * plain.classes).flat_map(|d| d[..d.len() / 3].to_vec()).collect();
        close("d_logits of the main group", &d_main, &golden.floats("output_grad/all_logits"), 1e-5);
    }
}

#[test]
fn more_objects_than_queries_are_averaged_over_the_objects() {
    let shape = PredictionShape { layers: 1, images: 1, groups: 1, queries: 1, classes: 3 };
    let targets = [Targets { labels: vec![0, 1], boxes: vec![[0.5, 0.5, 0.2, 0.2], [0.25, 0.25, 0.1, 0.1]] }];
    let (logits, boxes) = ([0.0, 9.0, 0.0], [0.3, 0.3, 0.1, 0.1]);
    let criterion = Criterion::DETR;
    let matches = criterion.match_predictions(&logits, &boxes, &targets, shape).expect("finite predictions");
    assert_eq!(matches[0][0], [Pair { query: 0, target: 1 }]);
    let found = answer(On::Twins, &criterion, shape, &logits, &boxes, criterion.targets(&matches, &targets, shape));
    close("l1", &[found.losses.layers[0].l1], &[0.1 / 2.0], 1e-5);
}

#[test]
fn a_no_object_weight_of_zero_leaves_an_empty_batch_without_loss() {
    let shape = PredictionShape { layers: 1, images: 1, groups: 1, queries: 2, classes: 2 };
    let criterion = Criterion { class_loss: ClassLoss::CrossEntropy { no_object: 0.0 }, ..Criterion::DETR };
    let targets = criterion.targets(&vec![vec![vec![]]], &[Targets::default()], shape);
    let found = answer(On::Twins, &criterion, shape, &[0.0, 9.0, 3.0, 1.0], &[0.5; 8], targets);
    assert_eq!(found.losses.total, 0.0);
    assert!(found.d_logits.iter().all(|&d| d == 0.0));
}

#[test]
fn a_loss_that_is_no_number_is_an_error_that_names_its_place() {
    let shape = PredictionShape { layers: 2, images: 2, groups: 2, queries: 4, classes: 3 };
    let mut outputs: Values =
        ["loss.class", "loss.l1", "loss.giou"].into_iter().map(|n| (n.to_owned(), Host::f32([8], vec![1.0; 8]))).collect();
    assert_eq!(Criterion::DETR.losses(&outputs, shape).expect("finite").total, 8.0 * 8.0);
    let mut bad = vec![1.0; 8];
    bad[6] = f32::NAN;
    outputs.insert("loss.l1".into(), Host::f32([8], bad));
    let error = Criterion::DETR.losses(&outputs, shape).expect_err("a NaN");
    assert_eq!(error.to_string(), "loss.l1 of decoder layer 1, image 1 of the batch is NaN");
}

#[test]
#[should_panic(expected = "label 6 of 6 classes")]
fn the_no_object_index_is_no_label() {
    let golden = Golden::read("detr", Criterion::DETR);
    let targets = [Targets { labels: vec![6], boxes: vec![[0.5; 4]] }, Targets::default()];
    let matches = golden.criterion.match_predictions(&golden.logits, &golden.boxes, &targets, golden.shape).expect("finite predictions");
    golden.criterion.targets(&matches, &targets, golden.shape);
}

#[test]
fn criteria_survive_json_and_refuse_unknown_fields() {
    for criterion in [Criterion::DETR, Criterion::SMCA] {
        let json = serde_json::to_string(&criterion).expect("json");
        assert_eq!(serde_json::from_str::<Criterion>(&json).expect("the same"), criterion);
        assert!(serde_json::from_str::<Criterion>(&json.replace("giou", "gious")).is_err());
    }
}
