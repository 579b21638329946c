//! Hugging Face folders: shards, the names of transformers 5, and configurations that we do not have.

use super::{golden, one_line, scratch};
use qdetr::models::config::Backbone;
use qdetr::weights::load;
use qdetr::weights::names::Dialect;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::path::Path;

const FOLDER: &str = "models/hf_basic";

/// The tensors of the golden folder under other names, as files of a test's own folder.
fn rewrite(folder: &Path, files: &[&str], rename: impl Fn(&str) -> (usize, String)) {
    let bytes = std::fs::read(golden(FOLDER).join("model.safetensors")).unwrap();
    let source = SafeTensors::deserialize(&bytes).unwrap();
    let mut parts: Vec<Vec<(String, TensorView)>> = files.iter().map(|_| Vec::new()).collect();
    for (name, tensor) in source.tensors() {
        let (part, name) = rename(&name);
        parts[part].push((name, tensor));
    }
    for (file, part) in files.iter().zip(parts) {
        std::fs::write(folder.join(file), safetensors::serialize(part, None).unwrap()).unwrap();
    }
}

/// Writes the golden folder's configuration with some keys changed; `null` stays, it is a value.
fn write_config(folder: &Path, changes: Value) {
    let mut config: Value = serde_json::from_slice(&std::fs::read(golden(FOLDER).join("config.json")).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        let place = config.pointer_mut(key).map(|place| *place = value.clone());
        place.unwrap_or_else(|| config[key.trim_start_matches('/')] = value.clone());
    }
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

#[test]
fn the_names_of_transformers_5_in_memory_load_the_same_model() {
    let folder = scratch();
    rewrite(folder.path(), &["model.safetensors"], |name| {
        let place = Dialect::HuggingFaceResnet.to_canonical(name).remove(0);
        (0, Dialect::Transformers5Resnet.from_canonical(&place.name).unwrap().name)
    });
    write_config(folder.path(), json!({}));
    let (five, four) = (load(folder.path()).unwrap(), load(&golden(FOLDER)).unwrap());
    assert_eq!(five.dialect, Dialect::Transformers5Resnet);
    assert_eq!(five.tensors, four.tensors);
    assert_eq!(five.config, four.config);
}

#[test]
fn shards_are_one_model() {
    let folder = scratch();
    let part = |name: &str| usize::from(name.contains("decoder"));
    rewrite(folder.path(), &["model-1.safetensors", "model-2.safetensors"], |name| (part(name), name.to_owned()));
    write_config(folder.path(), json!({}));
    let index = folder.path().join("model.safetensors.index.json");
    let map = json!({ "a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors" });
    std::fs::write(&index, json!({ "metadata": {}, "weight_map": map }).to_string()).unwrap();
    assert_eq!(load(folder.path()).unwrap().tensors, load(&golden(FOLDER)).unwrap().tensors);

    for (name, expected) in [("../x.safetensors", "same folder"), ("/etc/passwd", "same folder"), ("..", "same folder"), ("none", "none")] {
        std::fs::write(&index, json!({ "weight_map": { "a": name } }).to_string()).unwrap();
        let text = one_line(&load(folder.path()).unwrap_err(), folder.path().to_str().unwrap());
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_file_without_configuration_tells_what_shapes_tell() {
    let folder = scratch();
    std::fs::copy(golden(FOLDER).join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let inferred = load(&folder.path().join("model.safetensors")).unwrap().config.unwrap();
    let mut config = load(&golden(FOLDER)).unwrap().config.unwrap();
    (config.heads, config.class_names) = (8, Vec::new());
    assert_eq!(inferred, config);
}

#[test]
fn pytorch_model_bin_is_read_too() {
    let folder = scratch();
    std::fs::copy(golden("models/original_basic/model.pth"), folder.path().join("pytorch_model.bin")).unwrap();
    write_config(folder.path(), json!({}));
    assert_eq!(load(folder.path()).unwrap().tensors, load(&golden("models/original_basic/model.pth")).unwrap().tensors);
}

#[test]
fn configurations_leave_to_the_weights_what_they_do_not_say() {
    let folder = scratch();
    std::fs::copy(golden(FOLDER).join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let expected = load(&golden(FOLDER)).unwrap().config.unwrap();
    // A name on the hub instead of a backbone's configuration.
    write_config(folder.path(), json!({ "/backbone_config": null, "/backbone": "microsoft/resnet-18" }));
    assert_eq!(load(folder.path()).unwrap().config.as_ref(), Some(&expected));
    // The two shapes of timm's configuration; the dilation is all they add to the weights.
    let dilated = |config: qdetr::models::ModelConfig| matches!(config.backbone, Backbone::Resnet(r) if r.dilated_c5);
    let timm = json!({ "model_type": "timm_backbone", "backbone": "resnet18.a1_in1k", "output_stride": 16 });
    write_config(folder.path(), json!({ "/backbone_config": timm }));
    assert!(dilated(load(folder.path()).unwrap().config.unwrap()));
    let kwargs = json!({ "output_stride": 16 });
    let changes = json!({ "/backbone_config": null, "/use_timm_backbone": true, "/backbone": "resnet18", "/backbone_kwargs": kwargs });
    write_config(folder.path(), changes);
    assert!(dilated(load(folder.path()).unwrap().config.unwrap()));
    // Names that nobody gave are no names.
    write_config(folder.path(), json!({ "/id2label": { "0": "LABEL_0", "1": "LABEL_1" } }));
    let config = load(folder.path()).unwrap().config.unwrap();
    assert_eq!((config.classes, config.class_names.len()), (2, 0));
    write_config(folder.path(), json!({ "/id2label": null, "/label2id": null }));
    assert_eq!(load(folder.path()).unwrap().config.unwrap().classes, 5);
}

#[test]
fn models_that_we_do_not_have_are_refused_by_the_key_that_says_so() {
    let folder = scratch();
    std::fs::copy(golden(FOLDER).join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let cases = [
        (json!({ "/model_type": "conditional_detr" }), "`model_type` is \"conditional_detr\"; only \"detr\""),
        (json!({ "/architectures": ["DetrForSegmentation"] }), "segmentation"),
        (json!({ "/position_embedding_type": "learned" }), "`position_embedding_type` is \"learned\""),
        (json!({ "/activation_function": "gelu" }), "`activation_function`"),
        (json!({ "/decoder_ffn_dim": 3 }), "`decoder_ffn_dim` is 3"),
        (json!({ "/decoder_attention_heads": 2 }), "`decoder_attention_heads` is 2"),
        (json!({ "/num_channels": 1 }), "`num_channels` is 1"),
        (json!({ "/num_queries": 1_000_000_000 }), "`queries` is 1000000000"),
        (json!({ "/num_queries": -1 }), "-1"),
        (json!({ "/num_queries": 1e30 }), "1e+30"),
        (json!({ "/d_model": 0 }), "`d_model` is 0"),
        (json!({ "/encoder_attention_heads": 5, "/decoder_attention_heads": 5 }), "`heads`"),
        (json!({ "/id2label": { "1": "a", "2": "b" } }), "`id2label`"),
        (json!({ "/backbone_config/model_type": "swin" }), "swin"),
        (json!({ "/backbone_config/layer_type": "deep" }), "`deep`"),
        (json!({ "/backbone_config/hidden_act": "gelu" }), "hidden_act"),
        (json!({ "/backbone_config/depths": [1, 1] }), "`backbone_config.depths` has 2 values"),
        (json!({ "/backbone_config/out_features": ["stage3"] }), "stage3"),
        (json!({ "/backbone_config/downsample_in_first_stage": true }), "downsample_in_first_stage"),
        (
            json!({ "/backbone_config/layer_type": "bottleneck", "/backbone_config/downsample_in_bottleneck": true }),
            "downsample_in_bottleneck",
        ),
        (json!({ "/backbone_config": null, "/use_timm_backbone": true, "/backbone": "mobilenetv2_100" }), "`mobilenetv2_100`"),
        (json!({ "/backbone_config": null, "/use_timm_backbone": true, "/backbone": "resnet50d" }), "`resnet50d`"),
    ];
    for (changes, expected) in cases {
        write_config(folder.path(), changes.clone());
        let text = one_line(&load(folder.path()).unwrap_err(), "config.json");
        assert!(text.contains(expected), "{changes}: {text}");
    }
}

#[test]
fn folders_that_hold_no_model_are_refused() {
    let folder = scratch();
    let refusal = || one_line(&load(folder.path()).unwrap_err(), folder.path().to_str().unwrap());
    assert!(refusal().contains("without `config.json`"));
    std::fs::write(folder.path().join("config.json"), "{").unwrap();
    assert!(refusal().contains("JSON"));
    write_config(folder.path(), json!({}));
    assert!(refusal().contains("neither `model.safetensors` nor"));
    std::fs::write(folder.path().join("model.safetensors"), "").unwrap();
    assert!(refusal().contains("is empty"));
    assert!(matches!(load(&folder.path().join("nothing")), Err(qdetr::Error::Io { .. })));
}
