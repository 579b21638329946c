//! `qdetr quantize` as users meet it: a file that all other commands read, and what it says when there is nothing to be made.

#[path = "common/command.rs"]
mod command;

use command::{Run, asset, run, tiny_model};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// Runs the command on the tiny model.
fn quantize(data: &Path, out: &Path, more: &[&str]) -> Run {
    quantize_model(&tiny_model(), data, out, more)
}

fn quantize_model(model: &Path, data: &Path, out: &Path, more: &[&str]) -> Run {
    let paths = [("--model", model), ("--data", data), ("--out", out)];
    let paths = paths.into_iter().flat_map(|(flag, path)| [OsString::from(flag), path.into()]);
    let small = ["--shorter", "64", "--longer", "96"].map(OsString::from);
    run([OsString::from("quantize")].into_iter().chain(paths).chain(small).chain(more.iter().map(OsString::from)))
}

#[test]
fn the_file_is_a_model_for_every_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("low.safetensors");
    let report = quantize(&asset("images"), &out, &["--bits", "4-8-8", "--images", "2", "--json"]).json();
    assert_eq!((report["bits"].as_str(), report["pictures"].as_u64()), (Some("4-8-8 (compact)"), Some(2)), "{report}");
    let layers = report["layers"].as_object().expect("layers by bits");
    assert!(layers["4"].as_u64().is_some_and(|n| n > 30) && layers["8"].as_u64() == Some(5), "stem, classes and three of boxes: {report}");
    let bytes = |name: &str| report[name].as_u64().expect("bytes");
    assert!(bytes("file_bytes") * 2 < bytes("float_bytes") && bytes("file_bytes") == fs::metadata(&out).expect("a file").len(), "{report}");

    let text = quantize(&asset("images"), &folder.path().join("again.safetensors"), &["--bits", "4-8-8", "--images", "2"]);
    assert!(text.code == Some(0) && text.out.contains("5 of 8 bits") && text.out.contains("from 2 pictures"), "{text:?}");
    assert!(fs::read(folder.path().join("again.safetensors")).expect("a file") == fs::read(&out).expect("a file"));

    let path = out.display().to_string();
    let photo = asset("images").join("bear.jpg").display().to_string();
    let small = ["--shorter", "64", "--longer", "96", "--threshold", "0", "--json"];
    let found = run(["detect", &photo, "--model", &path].iter().chain(&small)).json();
    assert!(found["images"][0]["detections"].as_array().is_some_and(|all| !all.is_empty()), "{found}");
    let twice = quantize_model(&out, &asset("images"), &folder.path().join("twice.safetensors"), &["--bits", "8-8-8"]);
    twice.fails(1, &["low.safetensors", "quantized already", "4-8-8 (compact)"]);
    quantize_model(&out, &asset("images"), &out, &["--bits", "8-8-8"]).fails(2, &["is the model itself"]);
}

#[test]
fn methods_differ_and_a_data_set_gives_its_pictures() {
    let folder = tempfile::tempdir().expect("a folder");
    let set = folder.path().join("set");
    fs::create_dir_all(set.join("images")).expect("a folder");
    fs::copy(asset("images").join("bear.jpg"), set.join("images/1.jpg")).expect("a copy");
    let about = serde_json::json!({
        "images": [{ "id": 1, "file_name": "1.jpg", "width": 640, "height": 480 }], "annotations": [],
        "categories": [{ "id": 1, "name": "bear" }]
    });
    fs::write(set.join("instances_train.json"), about.to_string()).expect("a file");
    let out = |name: &str| -> PathBuf { folder.path().join(name) };
    for (name, data) in [("mse", set.clone()), ("min-max", set.join("instances_train.json")), ("percentile:99.5", set.join("images"))] {
        let done = quantize(&data, &out(name), &["--bits", "4-4-4", "--method", name, "--preset", "release"]);
        assert!(done.code == Some(0) && done.out.contains("from 1 pictures"), "{done:?}");
    }
    let read = |name: &str| fs::read(out(name)).expect("a file");
    assert!(read("mse") != read("min-max") && read("mse") != read("percentile:99.5"));
}

#[test]
fn what_cannot_be_done_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let (empty, out) = (folder.path().join("empty"), folder.path().join("out.safetensors"));
    fs::create_dir(&empty).expect("a folder");
    quantize(&empty, &out, &["--bits", "8-8-8"]).fails(1, &["empty", "no pictures", "no data set"]);
    quantize(&folder.path().join("none"), &out, &["--bits", "8-8-8"]).fails(1, &["none"]);
    quantize(&asset("images"), &out, &[]).fails(2, &["--bits 8-8-8"]);
    quantize(&asset("images"), &folder.path().join("a/b.safetensors"), &["--bits", "8-8-8"]).fails(2, &["folder does not exist"]);
    for (flag, value) in [("--bits", "8-8"), ("--bits", "8-8-3"), ("--method", "lsq"), ("--images", "0"), ("--preset", "all")] {
        let wrong = quantize(&asset("images"), &out, &[flag, value]);
        assert!(wrong.code == Some(2) && wrong.err.contains(value), "{wrong:?}");
    }
    fs::write(empty.join("broken.jpg"), "no picture").expect("a file");
    let broken = quantize(&empty, &out, &["--bits", "8-8-8"]);
    assert!(broken.code == Some(1) && broken.err.contains("broken.jpg") && broken.err.contains("none that could be read"), "{broken:?}");
    assert!(!out.exists());
}

#[test]
fn inspect_tells_what_a_file_holds() {
    let inspect = |path: &Path, more: &[&str]| {
        run(["inspect".into(), path.as_os_str().to_owned()].into_iter().chain(more.iter().map(OsString::from)))
    };
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("low.safetensors");
    quantize(&asset("images"), &out, &["--bits", "4-4-8", "--images", "1"]);
    let small = ["--size", "64x96", "--json"];
    let (low, float) = (inspect(&out, &small).json(), inspect(&tiny_model(), &small).json());
    assert_eq!(low["file_bytes"].as_u64(), Some(fs::metadata(&out).expect("a file").len()));
    assert_eq!((low["bits"].as_str(), low["attention_bits"].as_u64()), (Some("4-4-8 (compact)"), Some(8)));
    assert!(low["unsigned"].as_array().is_some_and(|all| all.iter().any(|name| name == "backbone.0.body.layer1.0.conv2.act")), "{low}");
    let layer = |report: &serde_json::Value, name: &str| {
        let all = report["layers"].as_array().expect("layers").iter();
        all.clone().find(|layer| layer["name"] == name).unwrap_or_else(|| panic!("{name}")).clone()
    };
    let stem = layer(&low, "backbone.0.body.conv1");
    let is = |layer: &serde_json::Value, bits: u64, stored: &str, bytes: u64| {
        assert_eq!(
            (layer["weight_bits"].as_u64(), layer["stored"].as_str(), layer["bytes"].as_u64()),
            (Some(bits), Some(stored), Some(bytes))
        );
    };
    is(&stem, 8, "codes", 16 * 3 * 49);
    assert_eq!(stem["shape"], serde_json::json!([16, 3, 7, 7]));
    assert_eq!(stem["multiply_adds"], 16 * 3 * 49 * 32 * 48);
    is(&layer(&low, "input_proj"), 4, "codes", layer(&float, "input_proj")["bytes"].as_u64().expect("bytes") / 8);
    assert_eq!(
        (&layer(&low, "input_proj")["input_bits"], &layer(&float, "input_proj")["input_bits"]),
        (&4.into(), &serde_json::Value::Null)
    );
    let total = |report: &serde_json::Value, name: &str| report["totals"][name].as_f64().expect("a number");
    for name in ["parameters", "statistics", "multiply_adds"] {
        assert_eq!(total(&low, name), total(&float, name), "{name}");
    }
    assert_eq!(total(&float, "ideal_bytes"), 4.0 * (total(&float, "parameters") + total(&float, "statistics")));
    assert_eq!(total(&float, "ideal_operations"), total(&float, "multiply_adds"));
    assert!(
        total(&low, "ideal_bytes") < total(&float, "ideal_bytes") / 2.0
            && total(&low, "ideal_operations") < total(&float, "multiply_adds") / 4.0
    );

    let text = inspect(&out, &[]);
    assert!(text.code == Some(0) && ["conv1.act", "MiB", "1/32", "1 × 800 × 1066"].iter().all(|word| text.out.contains(word)), "{text:?}");
    let backbone = inspect(&asset("models/mobilenet_v2_imagenet.safetensors"), &["--json"]).json();
    assert!(backbone["totals"].is_null() && backbone["layers"].as_array().is_some_and(|all| all.len() > 50), "{backbone}");
    inspect(&asset("images/bear.jpg"), &[]).fails(1, &["bear.jpg", "JPEG"]);
    inspect(&out, &["--size", "65536x65536", "--batch", "4096"]).fails(1, &["4096 × 65536 × 65536"]);
}
