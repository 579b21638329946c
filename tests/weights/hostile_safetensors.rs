//! Safetensors that are truncated, lie, or are something else.

use super::{load_bytes, one_line, refusal, scratch};
use qdetr::models::ModelConfig;
use qdetr::tensor::Host;
use qdetr::weights::{load, save};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A safetensors file from its header and its data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn one_tensor(info: Value, data: &[u8]) -> Vec<u8> {
    file(&json!({ "query_embed.weight": info }).to_string(), data)
}

/// A small file of ours.
fn small() -> Vec<u8> {
    let folder = scratch();
    let path = folder.path().join("small.safetensors");
    let tensors = BTreeMap::from([
        ("backbone.0.body.conv1.weight".to_owned(), Host::f32([2, 1, 1, 3], vec![1.0; 6])),
        ("backbone.0.body.bn1.weight".to_owned(), Host::f32([2], vec![1.0; 2])),
    ]);
    save(&path, Some(&ModelConfig::detr("resnet18").unwrap()), &tensors, &BTreeMap::new()).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn every_truncation_is_an_error() {
    let whole = small();
    load_bytes("x.safetensors", &whole).unwrap();
    for length in 0..whole.len() {
        refusal("x.safetensors", &whole[..length]);
    }
    let mut longer = whole.clone();
    longer.push(0);
    refusal("x.safetensors", &longer);
}

#[test]
fn no_flipped_bit_makes_it_panic() {
    let whole = small();
    for at in 0..whole.len() {
        for bit in [0x01, 0x08, 0x20, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= bit;
            if let Err(error) = load_bytes("x.safetensors", &bytes) {
                one_line(&error, "x.safetensors");
            }
        }
    }
}

#[test]
fn absurd_lengths_are_refused() {
    for length in [u64::MAX, u64::MAX - 7, 1 << 40, 200_000_000, 99_999_999, 100] {
        let mut bytes = file("{}", &[]);
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        let text = refusal("x.safetensors", &bytes);
        assert!(text.contains(&length.to_string()), "{text}");
    }
}

#[test]
fn offsets_that_lie_are_refused() {
    let both = |a: [u64; 2], b: [u64; 2]| {
        let info = |offsets: [u64; 2]| json!({ "dtype": "F32", "shape": [1], "data_offsets": offsets });
        file(&json!({ "query_embed.weight": info(a), "class_embed.bias": info(b) }).to_string(), &[0; 8])
    };
    load_bytes("x.safetensors", &one_tensor(json!({ "dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8] }), &[0; 8])).unwrap_err();
    for (a, b) in [
        ([0, 4], [0, 4]),
        ([0, 4], [2, 6]),
        ([0, 4], [6, 10]),
        ([4, 0], [4, 8]),
        ([0, u64::MAX], [4, 8]),
        ([0, 4], [1 << 60, (1 << 60) + 4]),
    ] {
        let text = refusal("x.safetensors", &both(a, b));
        assert!(text.contains("damaged"), "{text}");
    }
    let lies = [
        json!({ "dtype": "F32", "shape": [3], "data_offsets": [0, 8] }),
        json!({ "dtype": "F16", "shape": [2], "data_offsets": [0, 8] }),
        json!({ "dtype": "F32", "shape": [1u64 << 63, 2], "data_offsets": [0, 8] }),
        json!({ "dtype": "F32", "shape": [1u64 << 62], "data_offsets": [0, 8] }),
        json!({ "dtype": "F32", "shape": [-2], "data_offsets": [0, 8] }),
        json!({ "dtype": "F32", "shape": [2], "data_offsets": [0, 8, 9] }),
        json!({ "dtype": "F33", "shape": [2], "data_offsets": [0, 8] }),
        json!("no tensor"),
        json!(null),
    ];
    for info in lies {
        refusal("x.safetensors", &one_tensor(info, &[0; 8]));
    }
}

#[test]
fn shapes_and_types_that_no_model_has_are_refused_by_name() {
    let cases = [
        (json!({ "dtype": "F32", "shape": [0, 4], "data_offsets": [0, 0] }), 0, "[0, 4]"),
        (json!({ "dtype": "F32", "shape": [], "data_offsets": [0, 4] }), 4, "[]"),
        (json!({ "dtype": "F32", "shape": [1, 1, 1, 1, 2], "data_offsets": [0, 8] }), 8, "[1, 1, 1, 1, 2]"),
        (json!({ "dtype": "I64", "shape": [2], "data_offsets": [0, 16] }), 16, "holds I64 values"),
        (json!({ "dtype": "U32", "shape": [2], "data_offsets": [0, 8] }), 8, "holds U32 values"),
        (json!({ "dtype": "BOOL", "shape": [2], "data_offsets": [0, 2] }), 2, "holds BOOL values"),
        (json!({ "dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2] }), 2, "F8_E4M3"),
        (json!({ "dtype": "F32", "shape": vec![1; 500], "data_offsets": [0, 4] }), 4, "and 492 more"),
    ];
    for (info, size, expected) in cases {
        let text = refusal("x.safetensors", &one_tensor(info, &vec![0; size]));
        assert!(text.contains("`query_embed.weight`") && text.contains(expected), "{text}");
    }
}

#[test]
fn a_name_that_stands_there_twice_is_refused() {
    let info = |shape: &str| format!(r#""query_embed.weight":{{"dtype":"F32","shape":{shape},"data_offsets":[0,8]}}"#);
    let text = refusal("x.safetensors", &file(&format!("{{{},{}}}", info("[2,1]"), info("[1,2]")), &[0; 8]));
    assert!(text.contains("`query_embed.weight` stands there twice"), "{text}");
    // Two names that become one.
    let info = |offsets: [usize; 2]| json!({ "dtype": "F32", "shape": [1], "data_offsets": offsets });
    let names = json!({
        "class_labels_classifier.bias": info([0, 4]), "bbox_predictor.layers.0.bias": info([4, 8]), "class_embed.bias": info([8, 12])
    });
    let text = refusal("x.safetensors", &file(&names.to_string(), &[0; 12]));
    assert!(text.contains("`class_embed.bias` twice"), "{text}");
}

#[test]
fn headers_that_are_no_json_are_refused() {
    for header in ["{", "{}x", "[]", "{\"a\":}", "{\"__metadata__\": 3}", "{\"__metadata__\": {\"a\": 1}}", "{\"\u{0}\": \"\n\"}"] {
        refusal("x.safetensors", &file(header, &[]));
    }
    let mut bytes = file("{\"\u{e9}\"", &[]);
    bytes[11] = 0xff;
    refusal("x.safetensors", &bytes);
    refusal("x.safetensors", &file(&format!("{{\"a\":{}", "[".repeat(100_000)), &[]));
}

#[test]
fn our_own_metadata_is_not_believed_either() {
    let with = |metadata: Value| file(&json!({ "__metadata__": metadata }).to_string(), &[]);
    let mut config = serde_json::to_value(ModelConfig::detr("resnet18").unwrap()).unwrap();
    config["queries"] = json!(1_000_000_000);
    let cases = [
        (json!({ "qdetr.format": "3" }), "update qdetr"),
        (json!({ "qdetr.format": "one" }), "`one`"),
        (json!({ "qdetr.format": "1", "qdetr.config": "{" }), "configuration"),
        (json!({ "qdetr.format": "1", "qdetr.config": "{\"x\ny\": 1}" }), "configuration"),
        (json!({ "qdetr.format": "1", "qdetr.config": config.to_string() }), "`queries` is 1000000000"),
        (json!({ "format": "pt" }), "holds 0 tensors, none of a DETR"),
    ];
    for (metadata, expected) in cases {
        let text = refusal("x.safetensors", &with(metadata));
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn another_models_weights_are_refused() {
    let info = json!({ "dtype": "F32", "shape": [1], "data_offsets": [0, 4] });
    let text = refusal("x.safetensors", &file(&json!({ "bert.embeddings\n": info }).to_string(), &[0; 4]));
    assert!(text.contains("holds 1 tensors, none of a DETR or of a torchvision backbone, the first is `bert.embeddings\\n`"), "{text}");
    let two = json!({
        "class_embed.weight": { "dtype": "F32", "shape": [1], "data_offsets": [0, 4] },
        "query_embed.weight": { "dtype": "F32", "shape": [1, 1], "data_offsets": [4, 8] }
    });
    let text = refusal("x.safetensors", &file(&two.to_string(), &[0; 8]));
    assert!(text.contains("`class_embed.weight` has shape [1], want 2 dimensions"), "{text}");
    let learned = json!({
        "backbone.1.row_embed.weight": { "dtype": "F32", "shape": [1], "data_offsets": [0, 4] },
        "query_embed.weight": { "dtype": "F32", "shape": [1, 1], "data_offsets": [4, 8] }
    });
    let text = refusal("x.safetensors", &file(&learned.to_string(), &[0; 8]));
    assert!(text.contains("learned position embeddings"), "{text}");
}

#[test]
fn other_kinds_of_file_are_called_by_their_name() {
    let cases: [(&[u8], &str); 9] = [
        (b"\xff\xd8\xff\xe0 not really", "a JPEG picture"),
        (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"{\"model_type\": \"detr\"}", "a JSON file"),
        (b"", "is empty"),
        (b"hello", "neither a safetensors file nor a PyTorch checkpoint"),
        (b"\x08\x07\x12\x07pytorch", "neither"),
        (b"PK\x05\x06", "neither"),
    ];
    for (bytes, expected) in cases {
        for name in ["model.pth", "model.bin", "model"] {
            let text = refusal(name, bytes);
            assert!(text.contains(expected), "{text}");
        }
    }
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    assert!(refusal("model.pth", &tar).contains("tar archive"));
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused_without_waiting() {
    let text = one_line(&load(std::path::Path::new("/dev/zero")).unwrap_err(), "/dev/zero");
    assert!(text.contains("no regular file"), "{text}");
}
