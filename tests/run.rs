//! The training run: it learns, ends in time, resumes to the same bits, and says what is wrong.

mod common;
#[path = "common/tiny.rs"]
mod tiny;

use common::gpu;
use qdetr::Error;
use qdetr::data::{Loader, LoaderOptions, Strictness, TrainBatch};
use qdetr::gpu::{Gpu, Options};
use qdetr::models::config::Attention;
use qdetr::models::{BatchSize, ModelConfig, detector};
use qdetr::nn::{Precision, initialize};
use qdetr::tensor::Host;
use qdetr::train::optimizer::Update;
use qdetr::train::{Event, Job, TrainConfig, Trainer, prepare, run};
use qdetr::weights::Extras;
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use tiny::job;

/// The losses of a run, and the AP behind it.
fn losses(job: &Job) -> (Vec<f32>, Option<f64>) {
    let (mut losses, mut ap) = (Vec::new(), None);
    let mut tell = |event: Event<'_>| match event {
        Event::Step(line) => losses.push(line.report.losses.total),
        Event::Evaluated { summary, .. } => ap = Some(summary.ap50),
        Event::Skipped(what) | Event::Warning(what) => panic!("{what}"),
    };
    run(gpu(), job, &mut tell).expect("a run");
    (losses, ap)
}

#[test]
fn two_pictures_are_learnt_by_heart() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = job(folder.path(), 120);
    let (losses, ap) = losses(&job);
    println!("{losses:?} {ap:?}");
    assert_eq!(losses.len(), 120);
    assert!(losses[119] < 0.4 * losses[0], "{} to {}", losses[0], losses[119]);
    for name in ["last", "best"] {
        let checkpoint = qdetr::weights::load(&job.out.join(format!("{name}.safetensors"))).expect("a checkpoint");
        assert_eq!(checkpoint.config.as_ref(), Some(&job.config.model));
    }
    let log = std::fs::read_to_string(job.out.join("log.jsonl")).expect("a log");
    assert_eq!(log.lines().filter(|line| line.contains("\"losses\"")).count(), 120);
}

#[test]
fn smca_with_auxiliary_queries_learns_too_and_leaves_them_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut job = job(folder.path(), 120);
    job.config.model.attention = Attention::Smca;
    job.config.query_groups = 2;
    let specs = detector::training_specs(&job.config.model, 2).expect("a good configuration");
    job.start = initialize(&specs, 1);
    let (losses, ap) = losses(&job);
    assert!(losses[119] < 0.2 * losses[0], "{} to {}", losses[0], losses[119]);
    assert!(ap.is_some_and(|ap50| ap50 > 0.9), "{ap:?}");
    let checkpoint = qdetr::weights::load(&job.out.join("last.safetensors")).expect("a checkpoint");
    assert!(checkpoint.tensors.contains_key("query_embed_groups.weight"));
    let wants = detector::wants(&job.config.model).expect("a good configuration");
    let params = qdetr::weights::fit(checkpoint, wants, Extras::Refuse).expect("a detector");
    assert!(!params.contains_key("query_embed_groups.weight"));
}

/// What a checkpoint says of its average precision.
fn metrics(job: &Job) -> Value {
    let bytes = bytes(&job.out);
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a checkpoint");
    let metrics = header.metadata().as_ref().and_then(|all| all.get("qdetr.metrics")).expect("metrics");
    serde_json::from_str(metrics).expect("JSON")
}

/// The model at the end of a run.
fn bytes(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("last.safetensors")).expect("a checkpoint")
}

/// The lines of steps in a log.
fn steps(out: &Path) -> usize {
    std::fs::read_to_string(out.join("log.jsonl")).expect("a log").lines().filter(|line| line.contains("losses")).count()
}

#[test]
fn a_run_whose_time_is_over_is_judged_saves_and_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut whole = job(folder.path(), 3);
    whole.config.batch = 1;
    losses(&whole);
    let mut stopped = Job { out: folder.path().join("stopped"), max_seconds: Some(0.05), ..whole.clone() };
    let first = run(gpu(), &stopped, &mut |_| ()).expect("a run");
    assert!(first.out_of_time && first.steps < 6, "{first:?}");
    // Once resumed, each run does one step at least.
    stopped.resume = true;
    for _ in 0..6 {
        let outcome = run(gpu(), &stopped, &mut |_| ()).expect("a run");
        assert_eq!(outcome.last.map(|last| serde_json::json!(last.ap)), Some(metrics(&stopped)["AP"].clone()));
        if !outcome.out_of_time {
            break;
        }
    }
    assert!(bytes(&stopped.out) == bytes(&whole.out));
    assert_eq!((steps(&stopped.out), steps(&whole.out)), (6, 6));
}

#[test]
fn a_run_without_validation_leaves_a_model_and_curves() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = Job { validation: None, ..job(folder.path(), 2) };
    let outcome = run(gpu(), &job, &mut |_| ()).expect("a run");
    assert_eq!((outcome.steps, outcome.best, outcome.last), (2, None, None));
    assert!(qdetr::weights::load(&job.out.join("last.safetensors")).is_ok());
    assert!(qdetr::data::image::read(job.out.join("curves.png")).is_ok());
}

/// A job's first batch.
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

/// Makes an element of a parameter NaN.
fn poison(job: &mut Job, name: &str) {
    let host = &job.start[name];
    let mut values = host.to_f32().into_owned();
    values[1] = f32::NAN;
    job.start.insert(name.to_owned(), Host::f32(host.shape().dims(), values));
}

#[test]
fn a_run_that_diverges_stops_and_names_the_first_node() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut job = job(folder.path(), 20);
    (job.config.lr, job.config.lr_backbone) = (1000.0, 1000.0);
    let error = run(gpu(), &job, &mut |_| ()).expect_err("rates that nothing survives");
    let what = error.to_string();
    assert!(matches!(error, Error::NotFinite(_)), "{what}");
    for word in ["step ", "node ", " in `backbone", "gives f32", "its inputs are finite", "behind 0 steps is kept"] {
        assert!(what.contains(word), "no `{word}` in {what}");
    }
    job.start.iter().for_each(|(name, host)| assert!(host.to_f32().iter().all(|v| v.is_finite()), "{name}"));
    let state = std::fs::read(job.out.join("state.safetensors")).expect("a state");
    let state = SafeTensors::deserialize(&state).expect("a whole state");
    assert_eq!(state.tensor("parameter.query_embed.weight").expect("a parameter").data(), job.start["query_embed.weight"].as_bytes());
}

#[test]
fn a_parameter_that_is_not_finite_is_named_with_the_node_that_reads_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = job(folder.path(), 1);
    let batch = first_batch(&whole);
    let look = |name: &str, precision: Precision, words: &[&str]| {
        let mut job = whole.clone();
        job.config.precision = precision;
        poison(&mut job, name);
        let what = trainer(gpu(), &job).first_not_finite(&batch, 0, 1.0).expect("a look").expect("a NaN");
        for word in words.iter().chain(&["NaN", &format!("parameter `{name}`")]) {
            assert!(what.contains(word), "no `{word}` in {what}");
        }
    };
    look("transformer.decoder.layers.1.linear2.weight", Precision::F32, &["in `transformer.decoder.layers.1", "f32[2, 6, 32]"]);
    // A maximum of NaN and 0 may be 0: then it is the gradient that has it.
    look("transformer.decoder.layers.1.linear1.weight", Precision::F32, &["in `transformer.decoder.layers.1.linear1"]);
    if gpu().capabilities().f16 {
        look("class_embed.bias", Precision::F16, &["in `class_embed"]);
    }
}

#[test]
fn parameters_that_are_not_finite_are_not_saved() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut job = job(folder.path(), 1);
    poison(&mut job, "bbox_embed.layers.0.bias");
    let what = run(gpu(), &job, &mut |_| panic!("nothing happens")).expect_err("a parameter that is no number").to_string();
    assert!(what.contains("`bbox_embed.layers.0.bias`") && what.contains("NaN"), "{what}");
    assert!(!job.out.join("state.safetensors").exists());
}

#[test]
fn a_gradient_that_overflows_is_traced_to_where_its_inputs_were_finite() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = job(folder.path(), 1);
    let batch = first_batch(&job);
    let mut trainer = trainer(gpu(), &job);
    assert_eq!(trainer.first_not_finite(&batch, 0, 1.0).expect("a look"), None);
    let what = trainer.first_not_finite(&batch, 0, f32::MAX).expect("a look").expect("a loss of more than 1");
    assert!(what.contains("inf") && what.contains("its inputs are finite"), "{what}");
    // The trainer is as before.
    let update = Update { step: 0, factor: 1.0, loss_scale: 1.0 };
    assert!(trainer.step(&batch, 0, update).is_ok_and(|report| report.grad_norm.is_some()));
}

/// The tiny run's trainer on a device.
fn trainer(gpu: &Gpu, job: &Job) -> Trainer {
    Trainer::new(gpu, job.config.model.clone(), job.start.clone(), job.config.trainer()).expect("a trainer")
}

#[test]
fn what_a_plan_needs_is_known_without_a_device() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = job(folder.path(), 1);
    let mut trainer = trainer(gpu(), &job);
    for width in [64, 96] {
        let size = BatchSize { images: 2, height: 64, width };
        let (needs, report) = (trainer.needs(size), trainer.prepare(size).expect("a plan"));
        assert_eq!((needs.scratch.iter().sum(), needs.io.iter().sum()), (report.scratch, report.io), "{size}");
    }
}

/// The batch that an error says would fit.
fn advised(error: &Error) -> usize {
    let what = error.to_string();
    assert!(matches!(error, Error::OutOfMemory(_)), "{what}");
    let number = what.split("--batch ").nth(1).and_then(|rest| rest.split(',').next());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{what}"))
}

#[test]
fn what_does_not_fit_the_memory_is_said_with_what_would() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut job = job(folder.path(), 1);
    let size = BatchSize { images: 20, height: 64, width: 64 };
    let most_memory = Some(trainer(gpu(), &job).needs(size).total() as u64 + (4 << 20));
    let small = Gpu::open(&Options { most_memory, checked: true, no_disk_cache: true, ..Options::default() }).expect("a device");
    if small.allocated().is_none() {
        eprintln!("skipped: this back end does not count what is allocated");
        return;
    }
    job.config.batch = 64;
    let error = run(&small, &job, &mut |_| panic!("nothing happens")).expect_err("no room");
    let fits = advised(&error);
    assert!((10..64).contains(&fits), "{error}");
    for (batch, is_right) in [(fits, true), (fits + 2, false)] {
        job.config.batch = batch;
        assert_eq!(prepare(&mut trainer(&small, &job), &job.config).is_ok(), is_right, "{batch}: {error}");
    }
}

#[test]
fn what_does_not_fit_one_buffer_is_said_before_anything_is_allocated() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/configs/bccd-detr.json");
    let config = TrainConfig { batch: 64, accumulate: 2, ..TrainConfig::read(&path).expect("a configuration") };
    let gpu = Gpu::open(&Options { webgpu_only: true, no_disk_cache: true, ..Options::default() }).expect("a device");
    let start = initialize(&detector::specs(&config.model).expect("a good configuration"), 0);
    let mut trainer = Trainer::new(&gpu, config.model.clone(), start, config.trainer()).expect("a trainer");
    let before = gpu.counters().bytes_allocated();
    let error = prepare(&mut trainer, &config).expect_err("no room");
    assert_eq!(gpu.counters().bytes_allocated(), before);
    // 96 channels at a half of 480 × 640 are 29.5 MB a picture, and WebGPU promises 128 MiB.
    assert_eq!(advised(&error), 4, "{error}");
    assert!(error.to_string().contains("--accumulate 32"), "{error}");

    // The 41 million parameters of DETR-R50 take 166 MB.
    let config = TrainConfig { model: ModelConfig::detr("resnet50").expect("a known backbone"), freeze: Some(vec![]), ..config };
    let start = initialize(&detector::specs(&config.model).expect("a good configuration"), 0);
    let error = Trainer::new(&gpu, config.model.clone(), start, config.trainer()).expect_err("no room").to_string();
    assert!(error.contains("134217728") && error.contains("freeze"), "{error}");
}

#[test]
fn a_run_holds_no_more_memory_in_its_end_than_in_its_beginning() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = Job { validation: None, ..job(folder.path(), 60) };
    // A device of its own, because others of this process count too.
    let gpu = Gpu::open(&Options { no_disk_cache: true, ..Options::default() }).expect("a device");
    let mut seen: Vec<([u64; 3], Option<f64>)> = Vec::new();
    let mut tell = |event: Event<'_>| {
        if let Event::Step(line) = event {
            let c = gpu.counters();
            seen.push(([c.buffers(), c.bind_groups(), c.pipelines()], line.device_mb));
        }
    };
    run(&gpu, &job, &mut tell).expect("a run");
    assert_eq!(seen.len(), 60);
    assert_eq!(seen[9].0, seen[59].0, "buffers, bind groups, pipelines");
    let most = |part: &[([u64; 3], Option<f64>)]| part.iter().filter_map(|s| s.1).fold(0.0, f64::max);
    // What an upload is on its way in counts until the device is done with it: a few hundred bytes more or less by chance.
    assert!(most(&seen[40..]) <= most(&seen[10..30]) + 0.002, "{seen:?}");
    let log = std::fs::read_to_string(job.out.join("log.jsonl")).expect("a log");
    assert!(log.lines().all(|line| line.contains("\"host_mb\"") && line.contains("\"device_mb\"")), "{log}");
}

#[test]
fn a_resumed_run_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    resumes_to_the_same_bits(folder.path(), job(folder.path(), 6));
}

#[test]
fn a_resumed_run_of_updates_from_several_batches_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut job = job(folder.path(), 6);
    (job.config.batch, job.config.accumulate, job.plain) = (1, 2, false);
    resumes_to_the_same_bits(folder.path(), job);
}

/// Holds a run that was stopped behind 3 of 6 steps against one that was not.
fn resumes_to_the_same_bits(folder: &Path, whole: Job) {
    let (expected, _) = losses(&whole);
    let out = folder.join("stopped");
    // A shorter run, within which the learning rates are the same, is the longer one stopped.
    let stopped = Job { out: out.clone(), config: TrainConfig { epochs: 3, ..whole.config.clone() }, ..whole.clone() };
    run(gpu(), &stopped, &mut |_| ()).expect("a run");
    let (found, _) = losses(&Job { out: out.clone(), resume: true, ..whole.clone() });
    assert_eq!((expected.len(), found.len()), (6, 3));
    assert_eq!(found[..], expected[expected.len() - found.len()..]);
    assert!(bytes(&out) == bytes(&whole.out));
    assert_eq!((steps(&out), steps(&whole.out)), (6, 6));
}
