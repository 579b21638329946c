//! Files of every kind, written by the programs that users have, and by ourselves.

use super::names::{resnet, transformer};
use super::{golden, hashed, load_bytes, scratch};
use half::f16;
use qdetr::models::ModelConfig;
use qdetr::models::config::{Backbone, Block, ResNet};
use qdetr::tensor::{Data, Host};
use qdetr::weights::names::Dialect;
use qdetr::weights::{load, save};
use safetensors::SafeTensors;
use std::collections::BTreeMap;

/// The configuration that the goldens' script wrote beside its outputs, without class names.
fn golden_config(folder: &str) -> ModelConfig {
    ModelConfig { class_names: Vec::new(), ..hashed::golden(&format!("{folder}/io.safetensors")).config }
}

#[test]
fn the_original_checkpoint_loads_from_both_forms_of_pth() {
    let zip = load(&golden("models/original_basic/model.pth")).unwrap();
    let legacy = load(&golden("models/original_basic/model_legacy.pth")).unwrap();
    assert_eq!(zip.dialect, Dialect::Original);
    assert_eq!(zip.tensors, legacy.tensors);
    assert_eq!(zip.config, legacy.config);
    assert_eq!(zip.config.unwrap(), golden_config("original_basic"));
}

#[test]
fn hugging_face_folders_load_with_their_configuration() {
    let kinds = [
        ("hf_basic", Dialect::HuggingFaceResnet),
        ("hf_bottleneck", Dialect::HuggingFaceResnet),
        ("hf_timm_dc5", Dialect::HuggingFaceTimm),
    ];
    for (folder, dialect) in kinds {
        let checkpoint = load(&golden(&format!("models/{folder}"))).unwrap();
        assert_eq!(checkpoint.dialect, dialect);
        let mut config = checkpoint.config.unwrap();
        assert_eq!(config.class_names[1..3], ["person", "bicycle"]);
        assert_eq!(config.class_names.len(), config.classes);
        config.class_names.clear();
        assert_eq!(config, golden_config(folder));
    }
    let basic = load(&golden("models/hf_basic")).unwrap().tensors;
    let names = resnet(2, [2, 1, 1, 1], [false, true, true, true]).into_iter().chain(transformer(2, 2));
    assert!(basic.keys().cloned().eq(names.collect::<std::collections::BTreeSet<_>>()));
}

#[test]
fn both_backbone_namings_of_hugging_face_give_the_same_model() {
    let native = load(&golden("models/hf_bottleneck")).unwrap();
    let timm = load(&golden("models/hf_timm_bottleneck")).unwrap();
    assert_eq!(native.tensors, timm.tensors);
    assert_eq!(native.config, timm.config);
    // The file alone finds the configuration that lies beside it.
    let file = load(&golden("models/hf_bottleneck/model.safetensors")).unwrap();
    assert_eq!((file.tensors, file.config), (native.tensors, native.config));
}

#[test]
fn odd_tensors_of_pth_files_are_what_they_were() {
    for file in ["odd.pth", "odd_legacy.pth"] {
        let checkpoint = load(&golden(&format!("weights/{file}"))).unwrap();
        assert_eq!(checkpoint.config, None, "a backbone alone has no configuration");
        let tensor = |name: &str| &checkpoint.tensors[&format!("backbone.0.body.{name}")];
        let is = |name: &str, shape: &[usize], values: &[f32]| assert_eq!(tensor(name), &Host::f32(shape, values.to_vec()), "{name}");
        // [2, 3, 2, 2] of 0, 1, …, 23 with channels last.
        let convolution = [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11].map(|i| i as f32);
        let convolution: Vec<f32> = convolution.into_iter().chain(convolution.map(|x| x + 12.0)).collect();
        is("conv1.weight", &[2, 2, 2, 3], &convolution);
        is("conv1.channels_last", &[2, 2, 2, 3], &convolution);
        is("transposed", &[6, 4], &(0..24).map(|i| (i % 4 * 6 + i / 4) as f32).collect::<Vec<_>>());
        is("sliced", &[3], &[5.0, 7.0, 9.0]);
        is("expanded", &[3], &[7.0; 3]);
        is("bfloat16", &[4], &[0.0, 0.5, 1.0, 1.5]);
        is("double", &[4], &[0.0, 0.5, 1.0, 1.5]);
        is("parameter", &[3], &[0.0, 1.0, 2.0]);
        assert_eq!(tensor("half"), &Host::new([4], Data::F16([0.0, 0.5, 1.0, 1.5].map(f16::from_f32).to_vec())));
        assert_eq!(checkpoint.tensors.len(), 9, "the integer counter is dropped");
    }
}

#[test]
fn a_training_run_tells_heads_and_dilation() {
    let config = load(&golden("weights/run.pth")).unwrap().config.unwrap();
    let backbone = ResNet { block: Block::Basic, depths: [1; 4], stem: 4, widths: [4, 4, 8, 8], dilated_c5: true };
    assert_eq!(config.backbone, Backbone::Resnet(backbone));
    assert_eq!((config.heads, config.d_model, config.ffn, config.queries, config.classes), (2, 8, 12, 3, 4));
    assert_eq!((config.encoder_layers, config.decoder_layers), (1, 1));
}

#[test]
fn what_is_saved_is_what_is_loaded() {
    let folder = scratch();
    let path = folder.path().join("model.safetensors");
    let source = load(&golden("models/hf_basic")).unwrap();
    let mut tensors = source.tensors;
    tensors.insert("half".into(), Host::new([1, 2, 3, 1], Data::F16((0..6).map(|i| f16::from_f32(i as f32)).collect())));
    tensors.insert("codes".into(), Host::u32([3], vec![0, 1, u32::MAX]));
    let metadata = BTreeMap::from([("trained".to_owned(), "no".to_owned()), ("note".to_owned(), "ü\n".to_owned())]);
    save(&path, source.config.as_ref(), &tensors, &metadata).unwrap();
    let back = load(&path).unwrap();
    assert_eq!(back.dialect, Dialect::Qdetr);
    assert_eq!(back.tensors, tensors);
    assert_eq!(back.config, source.config);
    assert_eq!(back.metadata, metadata);

    let again = folder.path().join("again.safetensors");
    save(&again, back.config.as_ref(), &back.tensors, &back.metadata).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap(), "the same model is the same bytes");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left in the folder");
}

#[test]
fn other_programs_see_pytorchs_layout() {
    let folder = scratch();
    let path = folder.path().join("model.safetensors");
    let source = load(&golden("models/hf_basic")).unwrap();
    save(&path, source.config.as_ref(), &source.tensors, &BTreeMap::new()).unwrap();
    let (ours, theirs) = (std::fs::read(&path).unwrap(), std::fs::read(golden("models/hf_basic/model.safetensors")).unwrap());
    let (ours, theirs) = (SafeTensors::deserialize(&ours).unwrap(), SafeTensors::deserialize(&theirs).unwrap());
    for (name, tensor) in theirs.tensors() {
        let [place] = <[_; 1]>::try_from(source.dialect.to_canonical(&name)).unwrap();
        assert_eq!(ours.tensor(&place.name).unwrap(), tensor, "{name}");
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn a_backbone_alone_is_saved_and_loaded_without_configuration() {
    let folder = scratch();
    let path = folder.path().join("backbone.safetensors");
    let mut tensors = load(&golden("models/hf_basic")).unwrap().tensors;
    tensors.retain(|name, _| name.starts_with("backbone."));
    save(&path, None, &tensors, &BTreeMap::new()).unwrap();
    let back = load(&path).unwrap();
    assert_eq!((back.config, back.tensors), (None, tensors));
}

#[test]
fn a_file_in_the_originals_names_needs_no_pth() {
    // The original's names and ours are the same but for the packed projections.
    let source = load(&golden("models/original_basic/model.pth")).unwrap();
    let mut tensors = BTreeMap::new();
    for (name, tensor) in &source.tensors {
        let place = Dialect::Original.from_canonical(name).unwrap();
        let (dims, data): &mut (Vec<usize>, Vec<f32>) = tensors.entry(place.name).or_insert((tensor.shape().dims().to_vec(), Vec::new()));
        // q, k, v come in the order of the alphabet k, q, v: put each where it belongs.
        let values = tensor.to_f32();
        if let Some(third) = place.third {
            dims[0] = 3 * tensor.shape().dims()[0];
            data.resize(3 * values.len(), 0.0);
            data[third * values.len()..][..values.len()].copy_from_slice(&values);
        } else {
            data.extend(values.iter());
        }
    }
    let tensors: BTreeMap<String, Host> = tensors.into_iter().map(|(name, (dims, data))| (name, Host::f32(dims, data))).collect();
    let folder = scratch();
    let path = folder.path().join("original.safetensors");
    save(&path, None, &tensors, &BTreeMap::new()).unwrap();
    // Without our mark it is anybody's file.
    let bytes = std::fs::read(&path).unwrap();
    let text = String::from_utf8_lossy(&bytes[8..]).find("qdetr.format").unwrap() + 8;
    let mut bytes = bytes;
    bytes[text] = b'_';
    let back = load_bytes("original.safetensors", &bytes).unwrap();
    assert_eq!(back.dialect, Dialect::Original);
    assert_eq!(back.tensors, source.tensors);
    assert_eq!(back.config, source.config);
}

#[test]
fn a_file_that_cannot_be_written_leaves_nothing_behind() {
    let folder = scratch();
    let tensors = BTreeMap::from([("a".to_owned(), Host::f32([1], vec![1.0]))]);
    let missing = folder.path().join("no/such/folder/model.safetensors");
    assert!(save(&missing, None, &tensors, &BTreeMap::new()).is_err());
    let occupied = folder.path().join("occupied");
    std::fs::create_dir_all(occupied.join("inside")).unwrap();
    assert!(save(&occupied, None, &tensors, &BTreeMap::new()).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

    let mut config = ModelConfig::detr("resnet18").unwrap();
    config.queries = 1_000_000_000;
    assert!(save(&folder.path().join("bad"), Some(&config), &tensors, &BTreeMap::new()).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
