//! Distillation in a training step: the loss between student and teacher, where its gradient goes, and what it costs the rest.

mod common;
#[path = "common/tiny.rs"]
mod tiny;

use common::gpu;
use qdetr::data::{Loader, LoaderOptions, TrainBatch};
use qdetr::graph::{Graph, Params, Plan, PlanOptions, Scratch, Values, Var};
use qdetr::models::config::{Alignment, Attention};
use qdetr::models::{BatchSize, ModelConfig, Results, detector, detr};
use qdetr::nn::{Precision, initialize};
use qdetr::quant::{Bits, Quantization};
use qdetr::tensor::{DType, Host};
use qdetr::train::distill::{Distillation, Features, Layers, Mean, QueryMatcher, Teacher};
use qdetr::train::optimizer::Update;
use qdetr::train::{Event, GRADIENT, Job, Teaching, Trainer, align, run, train_graph};
use std::sync::Arc;
use tiny::job;

/// A job without dropout, so that a student can do what its teacher does.
fn still(folder: &std::path::Path, epochs: u64) -> Job {
    let mut job = job(folder, epochs);
    job.config.dropout = 0.0;
    job
}

fn another(config: &ModelConfig, seed: u64) -> Teacher {
    Teacher { config: config.clone(), params: initialize(&detector::specs(config).expect("a good configuration"), seed) }
}

fn batch(job: &Job) -> TrainBatch {
    let (buckets, strictness) = (job.config.buckets(), job.strictness);
    let options = LoaderOptions { batch: 2, group: 1, buckets, recipe: None, seed: 0, threads: 1, strictness };
    Loader::start(Arc::new(job.train.images.clone()), options, 0).expect("a loader").next_batch().expect("a batch")
}

fn trainer(job: &Job, teacher: Option<Teacher>, distillation: Distillation) -> Trainer {
    let trainer = Trainer::new(gpu(), job.config.model.clone(), job.start.clone(), job.config.trainer()).expect("a trainer");
    match teacher {
        Some(teacher) => trainer.with_teacher(teacher, distillation).expect("they fit"),
        None => trainer,
    }
}

const UPDATE: Update = Update { step: 0, factor: 1.0, loss_scale: 1.0 };

#[test]
fn who_is_his_own_teacher_learns_as_without_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = still(folder.path(), 1);
    let (batch, teacher) = (batch(&job), Teacher { config: job.config.model.clone(), params: job.start.clone() });
    let (mut alone, mut taught) = (trainer(&job, None, Distillation::default()), trainer(&job, Some(teacher), Distillation::default()));
    let [one, other] = [&mut alone, &mut taught].map(|trainer| trainer.step(&batch, 1, UPDATE).expect("a step").losses);
    let distance = other.distillation.expect("a distance");
    // Attention for training and the fused one of the teacher differ by rounding: of 32 channels that are about 0.1.
    assert!((0.0..1e-4).contains(&distance), "{distance}");
    assert!(one.distillation.is_none() && (other.total - one.total - distance).abs() < 1e-4 * one.total, "{one:?} {other:?}");
}

/// The features of the last layer of a model and all its boxes there, on the host.
fn look(config: &ModelConfig, params: &Values, batch: &TrainBatch, tap: &str) -> (Host, Host) {
    let pictures = &batch.batch.pictures;
    let mut net = detr(config, (BatchSize::of(pictures), pictures.entry()), Precision::F32, Results::Answers);
    let features = net.taps()[&format!("transformer.decoder.layers.{}.multihead_attn.{tap}", config.decoder_layers - 1)];
    net.output("features", features);
    let graph = net.into_parts().0;
    let params = Params::upload(gpu(), params).expect("the device works");
    let plan = Plan::compile(gpu(), &graph, &params, &mut Scratch::default(), PlanOptions::default()).expect("the device works");
    let found = plan.call(&pictures.inputs().map(|(name, host)| (name.to_owned(), host.clone())).into()).expect("the device works");
    (found["features"].clone(), found["pred_boxes"].clone())
}

/// The loss from its definition.
fn by_hand(distillation: Distillation, [student, teacher]: [&(Host, Host); 2], batch: &TrainBatch) -> f32 {
    let boxes = [&student.1, &teacher.1].map(Host::to_f32);
    let partners = distillation.matching.match_batch(&boxes[0], &boxes[1], &batch.targets, distillation.mean).expect("finite boxes");
    assert!(partners.kept > 0, "no query is kept: nothing is compared");
    let ([_, n, c], m) = (student.0.shape().blc(), teacher.0.shape().blc()[1]);
    let (s, t, weights) = (student.0.to_f32(), teacher.0.to_f32(), partners.weight.to_f32());
    let row = |(i, &partner): (usize, &u32)| {
        let (s, t) = (&s[i * c..][..c], &t[(i / n * m + partner as usize) * c..][..c]);
        let squares: f32 = s.iter().zip(t).map(|(s, t)| (s - t) * (s - t)).sum();
        weights[i] * if distillation.squared { squares } else { squares.sqrt() }
    };
    distillation.weight * partners.teacher.as_u32().iter().enumerate().map(row).sum::<f32>()
}

#[test]
fn the_loss_is_what_the_definition_says_of_features_and_boxes() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut job = still(folder.path(), 1);
    job.config.model.attention = Attention::Smca;
    job.start = initialize(&detector::specs(&job.config.model).expect("a good configuration"), 1);
    let more_queries = ModelConfig { queries: 9, attention: Attention::Plain, ..job.config.model.clone() };
    let (batch, teacher) = (batch(&job), another(&more_queries, 5));
    // Everything that overlaps an object: boxes of untrained models lie anywhere.
    let matching = QueryMatcher { tau: 0.0, ..QueryMatcher::Q_DETR };
    let ways = [
        (Distillation { matching, ..Distillation::default() }, "features"),
        (
            Distillation {
                matching,
                features: Features::AfterProjection,
                mean: Mean::Images,
                squared: true,
                weight: 0.5,
                ..Distillation::default()
            },
            "update",
        ),
    ];
    for (distillation, tap) in ways {
        let student = look(&job.config.model, &job.start, &batch, tap);
        let wanted = by_hand(distillation, [&student, &look(&teacher.config, &teacher.params, &batch, tap)], &batch);
        let losses = trainer(&job, Some(teacher.clone()), distillation).step(&batch, 1, UPDATE).expect("a step").losses;
        let found = losses.distillation.expect("a distance");
        assert!((found - wanted).abs() < 1e-3 * wanted, "{tap}: {found}, by hand {wanted}");
    }
}

#[test]
fn only_what_the_imitated_features_depend_on_gets_another_gradient() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = still(folder.path(), 1);
    let (config, options) = (&job.config.model, job.config.trainer().step);
    let size = BatchSize { images: 2, height: 64, width: 64 };
    let depends = |teaching: Option<Teaching<'_>>| {
        let built = train_graph(config, size, options, teaching, &|_| true);
        assert!(built.trained.keys().all(|name| !name.starts_with("teacher.")), "the teacher is not trained");
        assert!(built.specs.keys().all(|name| !name.starts_with("teacher.")), "the teacher is none of the model's parameters");
        let gradient = |name: &String| built.graph.outputs()[&format!("{GRADIENT}{name}")];
        built.trained.keys().map(|name| (name.clone(), depth(&built.graph, gradient(name)))).collect::<Vec<_>>()
    };
    let distillation = Distillation { layers: Layers::All, ..Distillation::default() };
    let (plain, taught) = (depends(None), depends(Some(Teaching { teacher: config, distillation })));
    let longer = plain.iter().zip(&taught).filter(|((name, plain), (same, taught))| name == same && taught > plain);
    let longer: Vec<&str> = longer.map(|((name, _), _)| name.as_str()).collect();
    assert!(longer.iter().any(|name| name.ends_with("layers.1.multihead_attn.v_proj.weight")), "{longer:?}");
    assert!(!longer.iter().any(|name| name.starts_with("class_embed") || name.starts_with("bbox_embed")), "{longer:?}");
}

/// Nodes that a value is computed by.
fn depth(graph: &Graph, var: Var) -> usize {
    let mut seen = std::collections::HashSet::new();
    let mut open = vec![graph.root(var)];
    while let Some(var) = open.pop() {
        if let Some(node) = graph.nodes().iter().position(|node| node.outputs.contains(&var))
            && seen.insert(node)
        {
            open.extend(graph.nodes()[node].inputs.iter().map(|&v| graph.root(v)));
        }
    }
    seen.len()
}

/// The distances of a run's first and last step.
fn distances(job: &Job) -> [f32; 2] {
    let mut all = Vec::new();
    let mut tell = |event: Event<'_>| {
        if let Event::Step(line) = event {
            all.push(line.report.losses.distillation.expect("a distance"));
        }
    };
    run(gpu(), job, &mut tell).expect("a run");
    [all[0], all[all.len() - 1]]
}

#[test]
fn a_student_of_few_bits_and_aligned_queries_comes_nearer_to_its_teacher() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut job = still(folder.path(), 40);
    let teacher = another(&job.config.model, 7);
    job.config.model.alignment = Alignment::CoAttention;
    job.config.distillation = Some(Distillation { matching: QueryMatcher { tau: 0.0, ..QueryMatcher::Q_DETR }, ..Distillation::default() });
    let starts = [(Alignment::CoAttention, "multihead_attn"), (Alignment::SelfAttention, "self_attn")].map(|(alignment, name)| {
        let mut config = job.config.clone();
        config.model.alignment = alignment;
        let found = align(gpu(), &config, &job.train, job.start.clone(), job.strictness, &mut |_| {}).expect("a start");
        assert_eq!(found.len(), 4);
        assert!(found.keys().all(|key| key.contains(name)), "{found:?}");
        found
    });
    job.start.extend(starts[0].clone());
    job.config.model.quantization = Some(Quantization::new("4-4-8".parse::<Bits>().expect("bits")));
    let calibrated = qdetr::train::calibrate(
        gpu(),
        &job.config,
        &job.train,
        (job.start.clone(), qdetr::models::CalibrationMethod::MSE),
        job.strictness,
        &mut |_| {},
    );
    let calibrated = calibrated.expect("step sizes");
    (job.config.model, job.start, job.teacher) = (calibrated.config, calibrated.params, Some(teacher));
    let [first, last] = distances(&job);
    assert!(last < 0.7 * first, "{first} to {last}");
    let saved = qdetr::weights::load(&job.out.join("last.safetensors")).expect("a checkpoint");
    assert!(saved.tensors.keys().all(|name| !name.starts_with("teacher.")), "the teacher is not saved");
    assert!(saved.tensors.contains_key("transformer.decoder.layers.0.multihead_attn.q_norm.weight"));
}

#[test]
fn queries_start_near_those_of_the_model_without_alignment() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = still(folder.path(), 1);
    let batch = batch(&job);
    let mut config = job.config.clone();
    config.model.alignment = Alignment::CoAttention;
    let mut params = initialize(&detector::specs(&config.model).expect("a good configuration"), 1);
    let queries = |config: &ModelConfig, params: &Values, tap: &str| look(config, params, &batch, tap).0.cast(DType::F32).to_f32().to_vec();
    let wanted = queries(&job.config.model, &params, "q");
    let error = |found: &[f32]| found.iter().zip(&wanted).map(|(f, w)| (f - w).powi(2)).sum::<f32>();
    let far = error(&queries(&config.model, &params, "q_aligned"));
    params.extend(align(gpu(), &config, &job.train, job.start.clone(), job.strictness, &mut |_| {}).expect("a start"));
    let near = error(&queries(&config.model, &params, "q_aligned"));
    // Directions of an untrained model's queries say little about their lengths.
    assert!(near < 0.8 * far, "from {far} to {near}");
}

#[test]
fn what_does_not_fit_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut job = still(folder.path(), 1);
    let refuse = |config: &ModelConfig, distillation: Distillation, word: &str| {
        let error = another(config, 1).check(&job.config.model, &distillation).unwrap_err().to_string();
        assert!(error.contains(word), "no `{word}` in {error}");
    };
    let model = &job.config.model;
    refuse(&ModelConfig { d_model: 64, ..model.clone() }, Distillation::default(), "d_model");
    let all = Distillation { layers: Layers::All, ..Distillation::default() };
    refuse(&ModelConfig { decoder_layers: 3, ..model.clone() }, all, "decoder_layers");
    refuse(&ModelConfig { quantization: Some(Quantization::new("4-4-8".parse().expect("bits"))), ..model.clone() }, all, "floats");
    refuse(model, Distillation { weight: f32::NAN, ..all }, "weight");
    job.config.distillation = Some(Distillation::default());
    let error = run(gpu(), &job, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("--teacher"), "{error}");
}
