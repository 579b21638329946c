//! `qdetr explain` as users meet it: its pictures, and its numbers against what the network's own taps say.

#[path = "common/command.rs"]
#[expect(dead_code, reason = "helpers of other tests")]
mod command;
mod common;
#[path = "common/tiny.rs"]
mod tiny;

use command::{finish, qdetr};
use common::gpu;
use qdetr::data::image;
use qdetr::data::preprocess::{Batch, Resize, Sample};
use qdetr::graph::Values;
use qdetr::models::config::{Alignment, Attention};
use qdetr::models::{CalibrationMethod, Calibrator, Detector, Distribution, Explainer, ModelConfig, Results, detector};
use qdetr::nn::{Precision, initialize};
use qdetr::quant::Quantization;
use qdetr::tensor::compare::{Tolerance, compare};
use qdetr::train::distill::QueryMatcher;
use qdetr::weights;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const RESIZE: Resize = Resize { shorter: 64, longer: 64 };

/// Two pictures, a model of floats, and one of few bits whose queries are aligned.
struct Place {
    folder: tempfile::TempDir,
    float: (ModelConfig, Values),
    low: (ModelConfig, Values),
}

impl Place {
    fn new(attention: Attention) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let job = tiny::job(folder.path(), 1);
        let float = ModelConfig { attention, resize: Some(RESIZE), ..job.config.model };
        let params = |config: &ModelConfig| initialize(&detector::specs(config).expect("a good configuration"), 1);
        let aligned = ModelConfig { alignment: Alignment::CoAttention, ..float.clone() };
        let config = ModelConfig { quantization: Some(Quantization::new("4-4-8".parse().expect("bits"))), ..aligned.clone() };
        let mut calibrator = Calibrator::new(gpu(), &config, params(&aligned), CalibrationMethod::LSQ).expect("a calibrator");
        calibrator.observe(&batch(&folder.path().join("0.png"))).expect("a run");
        let low = calibrator.finish().expect("step sizes");
        let place = Self { folder, float: (float.clone(), params(&float)), low: (low.config, low.params) };
        for (name, (config, params)) in [("float", &place.float), ("low", &place.low)] {
            weights::save(&place.path(name), Some(config), params, &BTreeMap::new()).expect("a writable folder");
        }
        place
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name).with_extension("safetensors")
    }

    fn explain(&self, more: &[&str]) -> command::Run {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let model = |name: &str| self.path(name).display().to_string();
        let own = ["explain", &path("0.png"), &path("1.png"), "--model", &model("low"), "--out", &path("out")].map(str::to_owned);
        let others = ["--teacher", &model("float"), "--baseline", &model("low")].map(str::to_owned);
        finish(&mut qdetr(own.into_iter().chain(others).chain(more.iter().map(|&more| more.to_owned()))))
    }
}

fn batch(picture: &Path) -> Batch {
    let sample = Sample::new(&image::read(picture).expect("a picture"), RESIZE);
    Batch::new(&[sample], None).expect("a batch")
}

#[test]
fn what_is_seen_is_what_the_detector_computes() {
    for attention in [Attention::Plain, Attention::Smca] {
        let place = Place::new(attention);
        let batch = batch(&place.folder.path().join("0.png"));
        for (config, params) in [&place.float, &place.low] {
            let mut detector = Detector::new(gpu(), config.clone(), params.clone(), Precision::F32, Results::Answers).expect("a detector");
            let answers = detector.answer(&batch.pictures).expect("a run");
            let look = Explainer::new(gpu(), config.clone(), params.clone()).expect("a model").look(&batch).expect("a run");
            // In codes, sums of integers: in parts or not, the same. In floats, the fused attention adds up in another order.
            let near = if config.quantization.is_some() { Tolerance::EXACT } else { Tolerance { absolute: 1e-5, relative: 1e-4 } };
            for (name, found) in [("logits", &look.logits), ("pred_boxes", &look.boxes)] {
                compare(found, &answers[name], near).unwrap_or_else(|e| panic!("{attention:?} {name}: {e}"));
            }
            let (n, c, [rows, columns]) = (config.queries, config.d_model, look.cells);
            assert_eq!((look.layers.len(), rows, columns), (2, 4, 4));
            for layer in &look.layers {
                assert_eq!(layer.queries.shape().dims(), [1, n, c]);
                assert_eq!(layer.aligned.is_some(), config.alignment == Alignment::CoAttention);
                assert_eq!(layer.map.shape().dims(), [1, config.heads, n, rows * columns]);
            }
            for query in 0..n {
                let map = look.map(0, query);
                assert!((map.iter().sum::<f32>() - 1.0).abs() < 1e-4 && map.iter().all(|&share| share >= 0.0), "{map:?}");
            }
            let by_query = look.by_query().expect("numbers");
            assert_eq!(by_query[0].len(), n);
            let best = by_query[0].iter().map(|found| found.score).fold(0.0, f32::max);
            assert!(look.detections(0.0).expect("numbers")[0].iter().all(|found| found.score <= best));
        }
    }
}

#[test]
fn aligned_queries_have_a_mean_of_0_and_a_deviation_of_1_in_every_head() {
    let place = Place::new(Attention::Plain);
    let (config, params) = place.low.clone();
    let depth = config.d_model / config.heads;
    let look = Explainer::new(gpu(), config, params).expect("a model").look(&batch(&place.folder.path().join("0.png"))).expect("a run");
    for layer in &look.layers {
        let aligned = layer.aligned.as_ref().expect("it is aligned").to_f32();
        for (before, after) in layer.queries.to_f32().chunks(depth).zip(aligned.chunks(depth)) {
            let mean = |values: &[f32]| values.iter().sum::<f32>() / depth as f32;
            let (center, middle) = (mean(before), mean(after));
            let variance = before.iter().map(|v| (v - center).powi(2)).sum::<f32>() / (depth - 1) as f32;
            assert!(middle.abs() < 1e-5, "{after:?}");
            before.iter().zip(after).for_each(|(q, a)| assert!(((q - center) / (variance + 1e-5).sqrt() - a).abs() < 1e-4, "{q} {a}"));
        }
    }
}

#[test]
fn the_command_writes_pictures_and_numbers_that_are_those_of_the_taps() {
    let place = Place::new(Attention::Plain);
    let report = place.explain(&["--json", "--threshold", "0", "--queries", "4,0"]).json();
    let files: Vec<&str> = report["files"].as_array().expect("files").iter().filter_map(Value::as_str).collect();
    assert_eq!(files.len(), 5);
    for file in &files {
        assert!(image::read(file).expect("a picture").width() > 64, "{file}");
    }
    // Two layers of two models without alignment, and both kinds of queries of two models with it.
    let queries = report["queries"].as_array().expect("queries");
    assert_eq!(queries.len(), 2 + 4 + 4);
    let (config, params) = place.low.clone();
    let mut explainer = Explainer::new(gpu(), config, params).expect("a model");
    let looks = ["0.png", "1.png"].map(|name| explainer.look(&batch(&place.folder.path().join(name))).expect("a run"));
    for layer in 0..2 {
        for aligned in [false, true] {
            let is_it = |q: &&Value| q["model"] == "model" && q["layer"] == layer && q["aligned"] == aligned;
            let told = queries.iter().find(is_it).expect("a distribution");
            let part = |look: &qdetr::models::Look| {
                let layer = &look.layers[layer];
                if aligned { layer.aligned.clone().expect("it is aligned") } else { layer.queries.clone() }.to_f32().into_owned()
            };
            let found = Distribution::of(&looks.iter().flat_map(part).collect::<Vec<f32>>());
            assert_eq!(told["mean"].as_f64(), Some(found.mean));
            assert_eq!((told["deviation"].as_f64(), told["entropy"].as_f64()), (Some(found.deviation), found.entropy));
            assert_eq!(told["count"].as_u64(), Some(2 * 6 * 32));
        }
    }
    let image = &report["images"][1];
    let attention = image["attention"].as_array().expect("attention");
    let who = |i: usize| (attention[i]["model"].as_str().expect("a name"), attention[i]["query"].as_u64().expect("a number"));
    assert_eq!([1, 2, 4, 5].map(who), [("baseline", 4), ("model", 4), ("baseline", 0), ("model", 0)]);
    // Of another model, the query that distillation would match.
    let (config, params) = place.float.clone();
    let theirs = Explainer::new(gpu(), config, params).expect("a model").look(&batch(&place.folder.path().join("1.png"))).expect("a run");
    let boxes = |look: &qdetr::models::Look| look.boxes.to_f32().as_chunks::<4>().0.to_vec();
    let partner = |query: usize| QueryMatcher::Q_DETR.nearest(boxes(&looks[1])[query], &boxes(&theirs)).expect("a partner") as u64;
    assert_eq!([0, 3].map(who), [("teacher", partner(4)), ("teacher", partner(0))]);
    // The baseline of this test is the same file as the model.
    assert_eq!(attention[1]["share_in_box"], attention[2]["share_in_box"]);
    assert_eq!(attention[2]["score"].as_f64().map(|s| s as f32), Some(looks[1].by_query().expect("numbers")[0][4].score));
    assert_eq!(image["detections"]["model"].as_array().map(Vec::len), Some(6));
}

#[test]
fn best_detections_are_chosen_and_mistakes_are_said() {
    let place = Place::new(Attention::Smca);
    let told = place.explain(&["--top", "2"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    let lines = |word: &str| told.out.lines().filter(|line| line.contains(word)).count();
    assert_eq!((lines("aligned queries"), lines(" query "), lines("written")), (4, 2 * 3 * 2, 1), "{told:?}");
    place.explain(&["--queries", "1,6"]).fails(2, &["--queries 6", "0 to 5"]);
    let wrong = place.explain(&["--threshold", "2"]);
    assert!(wrong.code == Some(2) && wrong.err.contains("from 0 to 1"), "{wrong:?}");
    place.explain(&["--annotations", "none.json"]).fails(1, &["none.json"]);
    // A model is no picture.
    let low = place.path("low").display().to_string();
    let out = place.folder.path().join("none").display().to_string();
    let wrong = finish(&mut qdetr(["explain", &low, "--model", &low, "--out", &out]));
    assert!(wrong.code == Some(1) && wrong.out.is_empty() && wrong.err.contains("found something else"), "{wrong:?}");
}
