//! A checkpoint held against what a model wants.

use super::{golden, hashed, one_line};
use half::f16;
use qdetr::Error;
use qdetr::data::Entry;
use qdetr::graph::interpret;
use qdetr::models::{Results, detr};
use qdetr::nn::Precision;
use qdetr::tensor::compare::{Tolerance, compare};
use qdetr::tensor::{Data, Host, Shape};
use qdetr::weights::{Checkpoint, Extras, fit, load};

fn checkpoint() -> Checkpoint {
    load(&golden("models/hf_basic")).unwrap()
}

fn wants(checkpoint: &Checkpoint) -> Vec<(String, Shape)> {
    checkpoint.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape())).collect()
}

fn borrowed(wants: &[(String, Shape)]) -> impl Iterator<Item = (&str, Shape)> {
    wants.iter().map(|(name, shape)| (name.as_str(), *shape))
}

#[track_caller]
fn complaint(checkpoint: Checkpoint, wants: &[(String, Shape)]) -> String {
    match fit(checkpoint, borrowed(wants), Extras::Refuse) {
        Err(Error::Weights { what, .. }) => what,
        other => panic!("want a list of tensors, found {other:?}"),
    }
}

#[test]
fn a_checkpoint_that_fits_is_taken_whole() {
    let (all, wants) = (checkpoint(), wants(&checkpoint()));
    assert_eq!(fit(all.clone(), borrowed(&wants), Extras::Refuse).unwrap(), all.tensors);
}

#[test]
fn every_golden_fits_its_model_and_every_number_is_in_its_place() {
    // Their weights are hashed from the original's names: thirds of packed projections, transposed convolutions and all.
    let inputs = [
        ("hf_basic", "hf_basic"),
        ("hf_bottleneck", "hf_bottleneck"),
        ("hf_timm_bottleneck", "hf_bottleneck"),
        ("hf_timm_dc5", "hf_timm_dc5"),
        ("original_basic/model.pth", "original_basic"),
        ("original_basic/model_legacy.pth", "original_basic"),
    ];
    for (source, io) in inputs {
        let checkpoint = load(&golden(&format!("models/{source}"))).unwrap();
        let size = hashed::golden(&format!("{io}/io.safetensors")).size;
        let net = detr(checkpoint.config.as_ref().unwrap(), (size, Entry::Floats), Precision::F32, Results::Answers);
        let wants = net.specs().iter().map(|(name, spec)| (name.as_str(), spec.shape));
        let tensors = fit(checkpoint, wants, Extras::Refuse).unwrap_or_else(|e| panic!("{source}: {e}"));
        assert!(tensors.len() > 150);
        for (name, expected) in hashed::params(net.specs()) {
            assert!(tensors[&name] == expected, "{source}: {name}");
        }
    }
}

#[test]
fn a_loaded_model_answers_what_pytorch_does() {
    let golden = hashed::golden("original_basic/io.safetensors");
    let checkpoint = load(&super::golden("models/original_basic/model.pth")).unwrap();
    let net = detr(checkpoint.config.as_ref().unwrap(), (golden.size, Entry::Floats), Precision::F32, Results::Answers);
    let wants = net.specs().iter().map(|(name, spec)| (name.as_str(), spec.shape));
    let found = interpret(&net, &golden.inputs, &fit(checkpoint, wants, Extras::Refuse).unwrap());
    for name in ["logits", "pred_boxes"] {
        compare(&found[name], &golden.answers[name], Tolerance { absolute: 1e-4, relative: 0.0 }).unwrap();
    }
}

#[test]
fn everything_wrong_is_listed_at_once_by_name() {
    let mut source = checkpoint();
    let mut wants = wants(&source);
    source.tensors.remove("query_embed.weight");
    source.tensors.remove("backbone.0.body.layer2.0.conv1.weight");
    source.tensors.insert("mask_head.weight".into(), Host::f32([2, 3], vec![0.0; 6]));
    let (_, shape) = wants.iter_mut().find(|(name, _)| name == "class_embed.weight").unwrap();
    *shape = Shape::new([92, 32]);
    let (_, shape) = wants.iter_mut().find(|(name, _)| name == "backbone.0.body.conv1.weight").unwrap();
    *shape = Shape::new([16, 5, 5, 3]);
    let what = complaint(source, &wants);
    let lines: Vec<&str> = what.lines().collect();
    assert_eq!(
        lines,
        [
            "missing `backbone.0.body.layer2.0.conv1.weight` [24, 16, 3, 3], \
             `model.backbone.conv_encoder.model.encoder.stages.1.layers.0.layer.0.convolution.weight` in the names of Hugging Face \
             with its own ResNet",
            "missing `query_embed.weight` [11, 32], `model.query_position_embeddings.weight` in the names of Hugging Face with its \
             own ResNet",
            "extra `mask_head.weight` [2, 3]",
            "misshapen `backbone.0.body.conv1.weight`: the file has [16, 3, 7, 7], the model wants [16, 3, 5, 5]",
            "misshapen `class_embed.weight`: the file has [6, 32], the model wants [92, 32]",
        ]
    );
}

#[test]
fn long_lists_are_shortened_and_counted() {
    let mut source = checkpoint();
    let wants = wants(&source);
    let all = wants.len();
    source.tensors.clear();
    let what = complaint(source, &wants);
    assert_eq!(what.lines().count(), 9);
    assert_eq!(what.lines().last().unwrap(), format!("… and {} more missing", all - 8));
}

#[test]
fn a_backbone_is_taken_out_of_a_detector_only_when_asked_to() {
    let mut wants = wants(&checkpoint());
    wants.retain(|(name, _)| name.starts_with("backbone."));
    let what = complaint(checkpoint(), &wants);
    assert!(what.lines().all(|line| line.contains("extra")), "{what}");
    let backbone = fit(checkpoint(), borrowed(&wants), Extras::Ignore).unwrap();
    assert!(backbone.len() == wants.len() && backbone.keys().all(|name| name.starts_with("backbone.")));
}

#[test]
fn weights_that_are_not_finite_are_refused_by_name() {
    let (mut source, wants) = (checkpoint(), wants(&checkpoint()));
    let shape = source.tensors["input_proj.bias"].shape();
    let mut bad = vec![0.0; shape.len()];
    (bad[3], bad[5]) = (f32::NAN, f32::NEG_INFINITY);
    source.tensors.insert("input_proj.bias".into(), Host::f32(shape.dims(), bad));
    let half = Data::F16(vec![f16::INFINITY; 32]);
    source.tensors.insert("class_embed.bias".into(), Host::new([6], Data::F16(vec![f16::ZERO; 6])));
    source.tensors.insert("transformer.decoder.norm.bias".into(), Host::new([32], half));
    let error = fit(source, borrowed(&wants), Extras::Refuse).unwrap_err();
    assert!(matches!(error, Error::NotFinite(_)), "{error:?}");
    let text = one_line(&error, "hf_basic");
    assert!(text.contains("`input_proj.bias` (2 of 32 values), `transformer.decoder.norm.bias` (32 of 32 values)"), "{text}");
}
