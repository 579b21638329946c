//! The name tables, against the lists that the sources' own programs print, and both ways over whole models.

use super::golden;
use qdetr::weights::names::{Dialect, Place};
use std::collections::BTreeSet;

const NORM: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];
const WEIGHT_AND_BIAS: [&str; 2] = ["weight", "bias"];
const HUGGING_FACE: [Dialect; 4] =
    [Dialect::HuggingFaceTimm, Dialect::HuggingFaceResnet, Dialect::Transformers5Timm, Dialect::Transformers5Resnet];

fn with<'a>(prefix: &'a str, parts: &'a [&'a str]) -> impl Iterator<Item = String> + 'a {
    parts.iter().map(move |part| format!("{prefix}.{part}"))
}

/// Our names of a ResNet's parameters; `shortcuts` says which stages begin with a projection.
pub(super) fn resnet(convolutions: usize, depths: [usize; 4], shortcuts: [bool; 4]) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = with("backbone.0.body.bn1", &NORM).collect();
    names.insert("backbone.0.body.conv1.weight".into());
    for stage in 0..4 {
        for block in 0..depths[stage] {
            let prefix = format!("backbone.0.body.layer{}.{block}", stage + 1);
            for i in 1..=convolutions {
                names.insert(format!("{prefix}.conv{i}.weight"));
                names.extend(with(&format!("{prefix}.bn{i}"), &NORM));
            }
            if block == 0 && shortcuts[stage] {
                names.insert(format!("{prefix}.downsample.0.weight"));
                names.extend(with(&format!("{prefix}.downsample.1"), &NORM));
            }
        }
    }
    names
}

/// Our names of torchvision's MobileNetV2 without its classifier.
fn mobilenet_v2() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut unit = |convolution: String, norm: String| {
        names.insert(format!("backbone.0.body.features.{convolution}.weight"));
        names.extend(with(&format!("backbone.0.body.features.{norm}"), &NORM));
    };
    unit("0.0".into(), "0.1".into());
    unit("1.conv.0.0".into(), "1.conv.0.1".into());
    unit("1.conv.1".into(), "1.conv.2".into());
    for n in 2..18 {
        unit(format!("{n}.conv.0.0"), format!("{n}.conv.0.1"));
        unit(format!("{n}.conv.1.0"), format!("{n}.conv.1.1"));
        unit(format!("{n}.conv.2"), format!("{n}.conv.3"));
    }
    unit("18.0".into(), "18.1".into());
    names
}

/// Our names of everything behind the backbone.
pub(super) fn transformer(encoder_layers: usize, decoder_layers: usize) -> BTreeSet<String> {
    let mut names = BTreeSet::from(["query_embed.weight".to_owned()]);
    let mut layer = |prefix: String, attentions: &[&str], norms: usize| {
        for attention in attentions {
            for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                names.extend(with(&format!("{prefix}.{attention}.{projection}"), &WEIGHT_AND_BIAS));
            }
        }
        for part in ["linear1", "linear2", "norm1", "norm2", "norm3"].iter().take(2 + norms) {
            names.extend(with(&format!("{prefix}.{part}"), &WEIGHT_AND_BIAS));
        }
    };
    for n in 0..encoder_layers {
        layer(format!("transformer.encoder.layers.{n}"), &["self_attn"], 2);
    }
    for n in 0..decoder_layers {
        layer(format!("transformer.decoder.layers.{n}"), &["self_attn", "multihead_attn"], 3);
    }
    for part in
        ["input_proj", "class_embed", "transformer.decoder.norm", "bbox_embed.layers.0", "bbox_embed.layers.1", "bbox_embed.layers.2"]
    {
        names.extend(with(part, &WEIGHT_AND_BIAS));
    }
    names
}

fn resnet18() -> BTreeSet<String> {
    resnet(2, [2, 2, 2, 2], [false, true, true, true])
}

fn resnet50() -> BTreeSet<String> {
    resnet(3, [3, 4, 6, 3], [true; 4])
}

fn detr(backbone: BTreeSet<String>) -> BTreeSet<String> {
    backbone.into_iter().chain(transformer(6, 6)).collect()
}

/// Our names → the source's → our names.
#[track_caller]
fn there_and_back(dialect: Dialect, ours: &BTreeSet<String>) {
    let mut theirs = BTreeSet::new();
    for name in ours {
        let place = dialect.from_canonical(name).unwrap_or_else(|| panic!("{dialect} has no {name}"));
        let back = dialect.to_canonical(&place.name);
        let expected = Place { name: name.clone(), third: place.third };
        assert!(back.contains(&expected), "{dialect}: {name} became {place:?} and then {back:?}");
        assert_eq!(back.len(), if place.third.is_some() { 3 } else { 1 }, "{dialect}: {place:?} is also {back:?}");
        assert!(theirs.insert((place.name, place.third)), "{dialect}: two of our names become one");
    }
    assert!(ours.len() >= 100);
}

#[test]
fn whole_models_are_renamed_there_and_back() {
    for backbone in [resnet18(), resnet50()] {
        let model = detr(backbone.clone());
        there_and_back(Dialect::Qdetr, &model);
        there_and_back(Dialect::Original, &model);
        there_and_back(Dialect::Torchvision, &backbone);
        for dialect in HUGGING_FACE {
            there_and_back(dialect, &model);
        }
    }
    there_and_back(Dialect::Original, &detr(mobilenet_v2()));
    there_and_back(Dialect::Torchvision, &mobilenet_v2());
}

/// A list that a source's program printed becomes exactly our names of that model.
#[track_caller]
fn the_list_is(file: &str, dialect: Dialect, ours: BTreeSet<String>) {
    let text = std::fs::read_to_string(golden(&format!("weights/names_{file}.txt"))).unwrap();
    let names = text.lines().map(|line| line.split(' ').next().unwrap()).filter(|name| !name.ends_with("num_batches_tracked"));
    let names: Vec<&str> = names.collect();
    assert_eq!(Dialect::detect(names.iter().copied()), Some(dialect));
    let renamed: Vec<String> = names.iter().flat_map(|name| dialect.to_canonical(name)).map(|place| place.name).collect();
    let distinct: BTreeSet<String> = renamed.iter().cloned().collect();
    assert_eq!(distinct.len(), renamed.len(), "two tensors become one");
    assert_eq!(distinct, ours);
    let back: BTreeSet<String> = ours.iter().map(|name| dialect.from_canonical(name).unwrap().name).collect();
    assert_eq!(back, names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>());
}

#[test]
fn the_original_program_prints_these_names() {
    the_list_is("original_resnet50", Dialect::Original, resnet50().into_iter().chain(transformer(1, 2)).collect());
}

#[test]
fn torchvision_prints_these_names() {
    let mut ours = resnet18();
    ours.extend(with("backbone.0.body.fc", &WEIGHT_AND_BIAS));
    the_list_is("torchvision_resnet18", Dialect::Torchvision, ours);
    let mut ours = mobilenet_v2();
    ours.extend(with("backbone.0.body.classifier.1", &WEIGHT_AND_BIAS));
    the_list_is("torchvision_mobilenet_v2", Dialect::Torchvision, ours);
}

#[test]
fn transformers_4_and_5_print_these_names() {
    let model = |backbone: BTreeSet<String>| backbone.into_iter().chain(transformer(1, 2)).collect::<BTreeSet<String>>();
    // In the small models the first stage is wider than the stem, so that even basic blocks begin it with a projection.
    let basic = || model(resnet(2, [1, 1, 2, 1], [true, true, true, true]));
    let bottleneck = || model(resnet(3, [1, 1, 2, 1], [true; 4]));
    the_list_is("transformers4_timm", Dialect::HuggingFaceTimm, model(resnet18()));
    the_list_is("transformers4_basic", Dialect::HuggingFaceResnet, basic());
    the_list_is("transformers4_bottleneck", Dialect::HuggingFaceResnet, bottleneck());
    the_list_is("transformers5_timm_in_memory", Dialect::Transformers5Timm, model(resnet18()));
    the_list_is("transformers5_basic_in_memory", Dialect::Transformers5Resnet, basic());
    the_list_is("transformers5_bottleneck_in_memory", Dialect::Transformers5Resnet, bottleneck());
}

#[test]
fn names_that_would_not_come_back_are_not_known() {
    let strange = [
        "model.encoder.layers.01.fc1.weight",
        "model.encoder.layers.+1.fc1.weight",
        "model.encoder.layers.99999999999999999999.fc1.weight",
        "model.encoder.layers..fc1.weight",
        "model.encoder.layers.1.fc1.",
        "model.encoder.layers.1.fc1",
        "model.backbone.conv_encoder.model.layer",
        "",
        ".",
    ];
    for name in strange {
        for dialect in Dialect::FOREIGN {
            assert_eq!(dialect.to_canonical(name), [], "{dialect} knows {name}");
        }
    }
    // Stages count from 1 in our names: there is no stage before the first.
    assert_eq!(Dialect::HuggingFaceResnet.from_canonical("backbone.0.body.layer0.0.conv1.weight"), None);
    assert_eq!(Dialect::detect(["bert.embeddings.weight"].into_iter()), None);
}

#[test]
fn hugging_face_has_no_mobilenet() {
    for name in mobilenet_v2() {
        assert!(HUGGING_FACE.iter().all(|dialect| dialect.from_canonical(&name).is_none()), "{name}");
    }
}
