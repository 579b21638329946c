//! From a float model to one on codes: what step sizes start from, how near the answers stay, and training from there.

mod common;
#[path = "common/tiny.rs"]
mod tiny;

use common::gpu;
use qdetr::Error;
use qdetr::data::image;
use qdetr::data::preprocess::{Batch, Resize, Sample};
use qdetr::data::{Entry, Loader, LoaderOptions, Strictness, TrainBatch};
use qdetr::graph::{Params, Plan, PlanOptions, Scratch, Values, fold, fuse, interpret};
use qdetr::models::{
    BatchSize, Calibrated, CalibrationMethod, Calibrator, Detector, ModelConfig, Results, detector, detr, for_training, observing,
};
use qdetr::nn::Precision;
use qdetr::nn::quantized::{OBSERVED, rows};
use qdetr::quant::{Method, Preset, Quantization, Quantizer};
use qdetr::tensor::Host;
use qdetr::train::{Event, Job, TrainConfig, calibrate, run};
use std::path::Path;
use std::sync::Arc;
use tiny::job;

const SIZE: BatchSize = BatchSize { images: 1, height: 64, width: 64 };

fn low_bits(config: &ModelConfig, bits: &str) -> ModelConfig {
    ModelConfig { quantization: Some(Quantization::new(bits.parse().expect("bits"))), ..config.clone() }
}

/// The job's pictures, one a batch.
fn pictures(job: &Job) -> Vec<Batch> {
    let one = |path: &Path| {
        let sample = Sample::new(&image::read(path).expect("a picture"), Resize { shorter: 64, longer: 64 });
        Batch::new(&[sample], None).expect("a batch")
    };
    job.train.images.iter().map(|record| one(&record.path)).collect()
}

fn calibrated(job: &Job, config: &ModelConfig, method: CalibrationMethod) -> Calibrated {
    let mut calibrator = Calibrator::new(gpu(), config, job.start.clone(), method).expect("a calibrator");
    pictures(job).iter().for_each(|batch| calibrator.observe(batch).expect("finite activations"));
    assert_eq!(calibrator.pictures(), 2);
    calibrator.finish().expect("pictures")
}

fn answers(config: &ModelConfig, params: &Values, batch: &Batch) -> Values {
    let mut detector =
        Detector::new(gpu(), config.clone(), params.clone(), Precision::F32, Results::Answers).expect("all that the model wants");
    detector.answer(&batch.pictures).expect("a run")
}

/// The largest difference, in parts of the spread of what is expected.
fn off(found: &Host, expected: &Host) -> f32 {
    let (found, expected) = (found.to_f32(), expected.to_f32());
    let spread = expected.iter().fold((f32::MAX, f32::MIN), |(a, b), &v| (a.min(v), b.max(v)));
    let largest = found.iter().zip(expected.iter()).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(largest.is_finite() && spread.1 > spread.0);
    largest / (spread.1 - spread.0)
}

#[test]
fn more_bits_are_nearer_to_the_float_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = job(folder.path(), 1);
    let batch = &pictures(&job)[0];
    let expected = answers(&job.config.model, &job.start, batch);
    let mut before = f32::INFINITY;
    for (bits, most) in [("4-4-4", 1.0), ("6-6-6", 0.3), ("8-8-8", 0.06)] {
        let Calibrated { config, params } = calibrated(&job, &low_bits(&job.config.model, bits), CalibrationMethod::MSE);
        let found = answers(&config, &params, batch);
        let off = ["logits", "pred_boxes"].map(|name| off(&found[name], &expected[name]));
        println!("{bits}: {off:?}");
        assert!(off[0] < most && off[1] < most && off[0] < before, "{bits}: {off:?}");
        before = off[0];
    }
}

#[test]
fn every_choice_of_layers_and_every_method_gives_all_that_its_model_wants() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = job(folder.path(), 1);
    let batch = &pictures(&job)[0];
    let percentile = CalibrationMethod::activations(Method::Percentile(99.9));
    for (preset, zero_points, method) in [
        (Preset::Executable, true, CalibrationMethod::LSQ),
        (Preset::EveryWeight, false, CalibrationMethod::activations(Method::MinMax)),
        (Preset::Release, true, percentile),
    ] {
        let quantization = Quantization { preset, zero_points, ..Quantization::new("8-8-8".parse().expect("bits")) };
        let config = ModelConfig { quantization: Some(quantization), ..job.config.model.clone() };
        let found = calibrated(&job, &config, method);
        let wants = detector::wants(&config).expect("a good configuration");
        assert_eq!(found.params.keys().collect::<Vec<_>>(), wants.iter().map(|(name, _)| name).collect::<Vec<_>>());
        assert_eq!(found.params.keys().any(|name| name.ends_with("zero_point")), zero_points);
        let found = answers(&found.config, &found.params, batch);
        let expected = answers(&job.config.model, &job.start, batch);
        println!("{preset:?}: {}", off(&found["logits"], &expected["logits"]));
    }
}

#[test]
fn step_sizes_are_those_of_what_the_float_network_computes() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = job(folder.path(), 1);
    let config = low_bits(&job.config.model, "4-5-6");
    let found = calibrated(&job, &config, CalibrationMethod { weights: Method::MinMax, ..CalibrationMethod::activations(Method::MinMax) });
    // By hand: the stem sees normalized pixels, whose range has 255 steps.
    let batches = pictures(&job);
    let pixels: Vec<f32> = batches.iter().flat_map(|batch| batch.pictures.normalized().to_f32().into_owned()).collect();
    let (least, largest) = pixels.iter().fold((f32::MAX, f32::MIN), |(a, b), &v| (a.min(v), b.max(v)));
    let alpha = (largest - least) / 255.0;
    let stem = "backbone.0.body.conv1";
    assert!((found.params[&format!("{stem}.act.alpha")].to_f32()[0] / alpha - 1.0).abs() < 1e-6);
    assert_eq!(found.params[&format!("{stem}.act.zero_point")].to_f32()[0], (-128.0 - least / alpha).round_ties_even());
    // Row 3 of a layer's weights has 4 bits: 7 steps up or 8 down.
    let layer = "transformer.encoder.layers.0.linear1";
    let row = &job.start[&format!("{layer}.weight")].to_f32()[3 * 32..4 * 32];
    let expected = row.iter().fold(0.0f32, |m, &v| m.max(if v > 0.0 { v / 7.0 } else { -v / 8.0 }));
    assert!((found.params[&format!("{layer}.alpha")].to_f32()[3] / expected - 1.0).abs() < 1e-6);
    // All others: the twins' network, each tensor on its own.
    let net = observing(&config, (SIZE, Entry::Floats));
    let inputs =
        |batch: &Batch| Values::from([("pixel_values".into(), batch.pictures.normalized()), ("pixel_mask".into(), batch.pictures.mask())]);
    let seen = batches.iter().map(|batch| interpret(&net, &inputs(batch), &job.start)).collect::<Vec<_>>();
    let quantization = found.config.quantization.as_ref().expect("low bits");
    assert!(net.places().len() > 60 && !quantization.unsigned.is_empty());
    for place in net.places() {
        let name = &place.name;
        let quantizer = Quantizer { method: Method::MinMax, ..place.quantizer };
        let expected = match &place.weight {
            Some(weight) => quantizer.start(rows(job.start[weight].shape()), &job.start[weight].to_f32()).expect("finite weights"),
            None => {
                let mut observer = qdetr::quant::Observer::new(quantizer).expect("a quantizer");
                for values in &seen {
                    let x = &values[&format!("{OBSERVED}{name}")];
                    observer.observe(x.shape(), &x.to_f32()).expect("finite activations");
                }
                let steps = observer.steps().expect("data");
                assert_eq!(quantization.unsigned.contains(name), observer.sign_is_free() && !steps.levels.signed, "{name}");
                steps
            }
        };
        let alpha = found.params[&format!("{name}.alpha")].to_f32();
        assert_eq!(alpha.len(), expected.alpha.len(), "{name}");
        for (found, expected) in alpha.iter().zip(&expected.alpha) {
            assert!((found / expected - 1.0).abs() < 1e-4, "{name}: {found}, {expected}");
        }
    }
}

#[test]
fn the_same_pictures_give_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = job(folder.path(), 1);
    let config = low_bits(&job.config.model, "4-4-8");
    let [a, b] = [(); 2].map(|()| calibrated(&job, &config, CalibrationMethod::MSE));
    assert_eq!((a.config, a.params), (b.config, b.params));
}

#[test]
fn maps_never_start_from_lsqs_rule() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = job(folder.path(), 1);
    let config = low_bits(&job.config.model, "4-4-4");
    let [lsq, mse] = [CalibrationMethod::LSQ, CalibrationMethod::MSE].map(|method| calibrated(&job, &config, method).params);
    let layer = "transformer.encoder.layers.0.self_attn";
    assert_eq!(lsq[&format!("{layer}.map_act.alpha")], mse[&format!("{layer}.map_act.alpha")]);
    assert_ne!(lsq[&format!("{layer}.q_act.alpha")], mse[&format!("{layer}.q_act.alpha")]);
}

#[test]
fn what_cannot_be_calibrated_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = job(folder.path(), 1);
    let start = |config: &ModelConfig, params: Values, method| Calibrator::new(gpu(), config, params, method);
    let config = low_bits(&job.config.model, "4-4-8");
    let error = start(&config, job.start.clone(), CalibrationMethod::MSE).and_then(Calibrator::finish).expect_err("no picture");
    assert!(matches!(error, Error::Config(_)) && error.to_string().contains("none that could be read"), "{error}");
    let error = start(&job.config.model, job.start.clone(), CalibrationMethod::MSE).expect_err("no low bits").to_string();
    assert!(error.contains("quantization"), "{error}");
    let error = start(&config, job.start.clone(), CalibrationMethod::activations(Method::Percentile(3.0))).expect_err("a percentile");
    assert!(error.to_string().contains("percentile"), "{error}");
    let mut params = job.start.clone();
    let name = "transformer.encoder.layers.0.linear1.weight";
    let mut values = params[name].to_f32().into_owned();
    values[5] = f32::NAN;
    params.insert(name.into(), Host::f32(params[name].shape().dims(), values));
    let error = start(&config, params, CalibrationMethod::MSE).expect_err("a weight that is no number");
    assert!(matches!(error, Error::NotFinite(_)) && error.to_string().contains(name), "{error}");
}

/// The tiny job with low bits, its step sizes from the first pictures.
fn low_bit_job(folder: &Path, bits: &str, epochs: u64) -> Job {
    let mut job = job(folder, epochs);
    job.config.model = low_bits(&job.config.model, bits);
    let found = calibrate(gpu(), &job.config, &job.train, (job.start, CalibrationMethod::LSQ), Strictness::Fatal, &mut |_| ());
    let Calibrated { config: model, params: start } = found.expect("readable pictures");
    Job { config: TrainConfig { model, ..job.config }, start, ..job }
}

fn losses(job: &Job) -> Vec<f32> {
    let mut losses = Vec::new();
    let mut tell = |event: Event<'_>| {
        if let Event::Step(line) = event {
            losses.push(line.report.losses.total);
        }
    };
    run(gpu(), job, &mut tell).expect("a run");
    losses
}

#[test]
fn training_on_codes_learns() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = low_bit_job(folder.path(), "4-4-8", 60);
    let losses = losses(&job);
    println!("{losses:?}");
    assert!(losses[59] < 0.7 * losses[0], "{} to {}", losses[0], losses[59]);
    let checkpoint = qdetr::weights::load(&job.out.join("last.safetensors")).expect("a checkpoint");
    assert_eq!(checkpoint.config.as_ref(), Some(&job.config.model));
    let moved = |name: &str| checkpoint.tensors[name] != job.start[name];
    let layer = "transformer.encoder.layers.0";
    for name in ["linear1.alpha", "linear1.act.alpha", "self_attn.q_act.alpha", "self_attn.map_act.alpha", "linear2.act.zero_point"] {
        assert!(moved(&format!("{layer}.{name}")), "{name} has not moved");
    }
}

#[test]
fn training_on_codes_learns_in_mixed_precision() {
    if Precision::F16.check(gpu()).is_err() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut job = low_bit_job(folder.path(), "4-4-8", 30);
    job.config.precision = Precision::F16;
    let losses = losses(&job);
    println!("{losses:?}");
    assert!(losses[29] < 0.85 * losses[0], "{} to {}", losses[0], losses[29]);
}

#[test]
fn a_resumed_run_on_codes_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = low_bit_job(folder.path(), "3-3-8", 6);
    let expected = losses(&whole);
    let out = folder.path().join("stopped");
    losses(&Job { out: out.clone(), config: TrainConfig { epochs: 3, ..whole.config.clone() }, ..whole.clone() });
    let saved = qdetr::train::saved(&out).expect("a state");
    assert_eq!(saved.quantization, whole.config.model.quantization);
    let found = losses(&Job { out: out.clone(), resume: true, start: saved.parameters, ..whole.clone() });
    assert_eq!(found[..], expected[3..]);
    let [a, b] = [&out, &whole.out].map(|out| std::fs::read(out.join("last.safetensors")).expect("a checkpoint"));
    assert!(a == b);
    // Other signs would mean other values for the same codes.
    let mut other = Job { out, resume: true, ..whole };
    other.config.model.quantization.as_mut().expect("low bits").unsigned.clear();
    let error = run(gpu(), &other, &mut |_| ()).expect_err("other signs").to_string();
    assert!(error.contains("3-3-8") && error.contains("signs"), "{error}");
}

/// The first batch of a job.
fn first_batch(job: &Job) -> TrainBatch {
    let options = LoaderOptions {
        batch: 2,
        group: 1,
        buckets: job.config.buckets(),
        recipe: None,
        seed: 0,
        threads: 1,
        strictness: Strictness::Fatal,
    };
    Loader::start(Arc::new(job.train.images.clone()), options, 0).and_then(|mut loader| loader.next_batch()).expect("a batch")
}

#[test]
fn evaluation_computes_what_training_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = low_bit_job(folder.path(), "4-4-8", 1);
    let model = &job.config.model;
    let batch = first_batch(&job).batch;
    let size = BatchSize { images: 2, ..SIZE };
    let (net, forward) = for_training(model, (size, Entry::Bytes), Precision::F32, 0.0, 0);
    let mut training = net.into_parts().0;
    training.output("logits", forward.logits[0]);
    training.output("memory", forward.memory);
    let mut inputs = Values::from(batch.pictures.inputs().map(|(name, host)| (name.to_owned(), host.clone())));
    let evaluation = detr(model, (size, Entry::Bytes), Precision::F32, Results::Everything).into_parts().0;
    let call = |graph: &qdetr::graph::Graph, inputs: &Values, is_training: bool| {
        // As in a trainer: what is trained stays a parameter.
        let fused = fuse(graph, &|_| false);
        let folded = fold(&fused, &|name| is_training && !name.contains(".bn") && !name.contains("downsample.1"));
        let mut values = folded.evaluate(&job.start, &|_| true);
        for name in folded.graph.params().keys() {
            values.entry(name.clone()).or_insert_with(|| job.start[name].clone());
        }
        let params = Params::upload(gpu(), &values).expect("room");
        let plan = Plan::compile(gpu(), &folded.graph, &params, &mut Scratch::default(), PlanOptions::default()).expect("a plan");
        plan.call(inputs).expect("a run")
    };
    let evaluated = call(&evaluation, &inputs, false);
    inputs.insert("seed".into(), Host::u32([1], vec![1]));
    let trained = call(&training, &inputs, true);
    // Codes are the same to the bit; so are the floats that only depend on them.
    assert_eq!(trained["memory"], evaluated["encoder_memory"]);
    let logits = trained["logits"].to_f32();
    let last = &logits[logits.len() - evaluated["logits"].shape().len()..];
    assert_eq!(last, &evaluated["logits"].to_f32()[..]);
}
