//! Everything that users can get wrong ends with one clear line and a non-zero exit code; nothing half-written is left.

#[path = "common/command.rs"]
mod command;

use command::{Run, asset, finish, qdetr, run, tiny_model};
use image::{Rgb, RgbImage};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// `detect` on the tiny model and small pictures.
fn detect(image: &Path, more: &[&str]) -> Run {
    run(detect_args(image, &tiny_model(), more))
}

fn detect_args(image: &Path, model: &Path, more: &[&str]) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["detect".into(), image.into(), "--model".into(), model.into()];
    args.extend(["--shorter", "64", "--longer", "96"].iter().chain(more).map(OsString::from));
    args
}

/// A file with these bytes.
fn write(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("a file");
    path
}

fn bear() -> Vec<u8> {
    fs::read(asset("images/bear.jpg")).expect("the sample")
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 77]));
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("a picture");
    bytes.into_inner()
}

/// A PNG whose header promises another size, with a right checksum.
fn lying_png() -> Vec<u8> {
    let mut bytes = png(8, 8);
    bytes[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
    let crc = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0u32, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 > 0 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 }))
}

#[test]
fn broken_pictures_are_refused() {
    let folder = folder();
    let bear = bear();
    for (name, bytes) in [
        ("truncated.jpg", &bear[..bear.len() / 2]),
        ("cut_header.jpg", &bear[..20]),
        ("truncated.png", &png(64, 64)[..60]),
        ("lying.png", &lying_png()[..]),
        ("empty.jpg", b""),
        ("text.jpg", b"this is no picture"),
        ("model.png", &fs::read(tiny_model().join("config.json")).expect("a file")[..]),
    ] {
        let path = write(&folder, name, bytes);
        detect(&path, &["--json"]).code.filter(|&c| c == 1).unwrap_or_else(|| panic!("{name} did not fail"));
        detect(&path, &[]).fails(1, &[name]);
    }
}

#[test]
fn tiny_and_extreme_pictures_work() {
    let folder = folder();
    for (width, height) in [(1, 1), (20_000, 10), (3, 2_000)] {
        let path = write(&folder, "odd.png", &png(width, height));
        let report = detect(&path, &["--json", "--threshold", "0"]).json();
        assert_eq!((&report["images"][0]["width"], &report["images"][0]["height"]), (&width.into(), &height.into()));
        assert_eq!(report["images"][0]["detections"].as_array().map(Vec::len), Some(11));
    }
}

#[test]
fn folders_without_pictures_and_paths_that_do_not_exist_are_named() {
    let folder = folder();
    detect(folder.path(), &[]).fails(1, &["no pictures in this folder"]);
    detect(&folder.path().join("missing.jpg"), &[]).fails(1, &["missing.jpg"]);
    // A device is no picture, and reading it must end.
    #[cfg(unix)]
    detect(Path::new("/dev/zero"), &[]).fails(1, &["/dev/zero"]);
}

#[test]
fn in_a_folder_the_other_pictures_still_finish() {
    let (folder, out) = (folder(), self::folder());
    let coco = out.path().join("found.json");
    write(&folder, "a.jpg", &bear());
    write(&folder, "b.jpg", &bear()[..1000]);
    write(&folder, "c.png", &png(40, 30));
    let (coco_text, out_text) = (coco.display().to_string(), out.path().join("boxes").display().to_string());
    for batch in ["1", "3"] {
        let run = detect(folder.path(), &["--json", "--batch", batch, "--coco", &coco_text, "--out", &out_text]);
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.err.lines().count() == 1 && run.err.contains("b.jpg"), "{run:?}");
        let report = run.json_anyway();
        let images: Vec<&str> = report["images"].as_array().into_iter().flatten().filter_map(|i| i["image"].as_str()).collect();
        assert!(images.len() == 2 && images[0].ends_with("a.jpg") && images[1].ends_with("c.png"), "{images:?}");
        let mut drawn: Vec<_> =
            fs::read_dir(out.path().join("boxes")).expect("drawings").map(|e| e.expect("an entry").file_name()).collect();
        drawn.sort();
        assert_eq!(drawn, ["a.jpg", "c.png"]);
        assert!(coco.is_file());
    }
}

/// A copy of the tiny model's folder, to be spoilt.
fn copy_of_model(folder: &TempDir) -> PathBuf {
    let copy = folder.path().join("model");
    fs::create_dir_all(&copy).expect("a folder");
    for name in ["config.json", "model.safetensors"] {
        fs::copy(tiny_model().join(name), copy.join(name)).expect("a copy");
    }
    copy
}

fn with_model(model: &Path) -> Run {
    let coco = model.with_file_name("never.json");
    let coco_text = coco.display().to_string();
    let run = run(detect_args(&asset("images/bear.jpg"), model, &["--coco", &coco_text]));
    assert!(!coco.exists(), "a file was written by {run:?}");
    run
}

#[test]
fn wrong_model_files_are_refused() {
    let folder = folder();
    with_model(&folder.path().join("missing")).fails(1, &["missing"]);
    with_model(&asset("images/bear.jpg")).fails(1, &["bear.jpg"]);
    with_model(&asset("images")).fails(1, &["images"]);
    with_model(&asset("models/mobilenet_v2_imagenet.safetensors")).fails(1, &["backbone"]);
    with_model(&write(&folder, "empty.safetensors", b"")).fails(1, &["empty"]);
    with_model(&asset("golden/models/hf_basic/io.safetensors")).fails(1, &["io.safetensors"]);
    with_model(&write(&folder, "text.pth", b"weights\n")).fails(1, &["text.pth"]);
}

#[test]
fn damaged_safetensors_are_refused() {
    let folder = folder();
    let whole = fs::read(tiny_model().join("model.safetensors")).expect("the model");
    let header = |length: u64, json: &str| [&length.to_le_bytes()[..], json.as_bytes(), &[0; 64]].concat();
    let overlap = r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}"#;
    let huge = r#"{"a":{"dtype":"F32","shape":[4294967295,4294967295],"data_offsets":[0,16]}}"#;
    let absurd = header(u64::MAX, "{");
    for (name, bytes) in [
        ("truncated", &whole[..whole.len() - 1000]),
        ("only_header", &whole[..100]),
        ("absurd_length", &absurd),
        ("long_header", &header(1 << 40, overlap)),
        ("overlap", &header(overlap.len() as u64, overlap)),
        ("huge_shape", &header(huge.len() as u64, huge)),
    ] {
        let path = write(&folder, &format!("{name}.safetensors"), bytes);
        with_model(&path).fails(1, &[name]);
    }
}

#[test]
fn malicious_pickles_execute_nothing() {
    let folder = folder();
    let trace = folder.path().join("executed");
    // What pickle.dumps gives for an object whose __reduce__ is (os.system, ("touch …",)).
    let call = format!("touch {}", trace.display());
    let mut pickle = b"\x80\x02cposix\nsystem\nX".to_vec();
    pickle.extend((call.len() as u32).to_le_bytes());
    pickle.extend(call.as_bytes());
    pickle.extend(b"\x85R.");
    with_model(&write(&folder, "evil.pth", &pickle)).fails(1, &["evil.pth"]);
    // An opcode that no state dict needs: a persistent id by text.
    with_model(&write(&folder, "odd.pth", b"\x80\x02Pthing\n.")).fails(1, &["odd.pth"]);
    assert!(!trace.exists());
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    let folder = folder();
    let model = copy_of_model(&folder);
    let path = model.join("model.safetensors");
    let mut bytes = fs::read(&path).expect("the model");
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).expect("a file");
    with_model(&model).fails(1, &["NaN"]);
}

#[test]
fn absurd_configurations_are_refused() {
    let folder = folder();
    let model = copy_of_model(&folder);
    let path = model.join("config.json");
    let text = fs::read_to_string(&path).expect("a config");
    let good: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for (key, value) in [("num_queries", 1_000_000_000u64), ("d_model", 1 << 40), ("decoder_layers", 1 << 33), ("encoder_layers", 99_999)] {
        let mut config = good.clone();
        assert!(config.get(key).is_some(), "{key} is no key of a configuration");
        config[key] = value.into();
        fs::write(&path, config.to_string()).expect("a file");
        with_model(&model).fails(1, &[&value.to_string()]);
    }
    fs::write(&path, &text[..text.len() / 2]).expect("a file");
    with_model(&model).fails(1, &["config.json"]);
}

/// A model whose configuration is sane but not that of its weights: every difference has a name.
#[test]
fn weights_of_another_model_are_listed_by_name() {
    let folder = folder();
    let model = copy_of_model(&folder);
    let path = model.join("config.json");
    let mut config: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).expect("a config")).expect("JSON");
    config["num_queries"] = 12.into();
    fs::write(&path, config.to_string()).expect("a file");
    let run = with_model(&model);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.err.contains("query") && !run.err.contains("panicked"), "{run:?}");
}

#[test]
fn pictures_that_no_gpu_can_hold_are_refused_with_what_would_fit() {
    let run = run(["bench", "model", "--preset", "detr-resnet18", "--size", "60000x60000", "--runs", "1"]);
    run.fails(1, &["would fit"]);
}

#[test]
fn outputs_that_cannot_be_written_are_named() {
    let folder = folder();
    let nowhere = folder.path().join("no/such/folder/found.json").display().to_string();
    detect(&asset("images/bear.jpg"), &["--coco", &nowhere]).fails(2, &["found.json", "folder"]);
    detect(&asset("images/bear.jpg"), &["--coco", &folder.path().display().to_string()]).fails(2, &["folder"]);
    let file = write(&folder, "file", b"").display().to_string();
    detect(&asset("images/bear.jpg"), &["--out", &file]).fails(1, &["file"]);
}

#[test]
fn forward_refuses_inputs_that_are_none_and_keeps_the_old_output() {
    let folder = folder();
    let output = write(&folder, "out.safetensors", b"old");
    let forward = |input: &Path| {
        let mut args: Vec<OsString> = vec!["forward".into(), "--model".into(), tiny_model().into(), "--input".into(), input.into()];
        args.extend([OsString::from("--output"), output.clone().into()]);
        run(args)
    };
    forward(&folder.path().join("missing")).fails(1, &["missing"]);
    forward(&asset("images/bear.jpg")).fails(1, &["no safetensors file"]);
    forward(&tiny_model().join("model.safetensors")).fails(1, &["pixel_values"]);
    assert_eq!(fs::read(&output).expect("the old output"), b"old");
}

#[cfg(target_os = "linux")]
#[test]
fn a_machine_without_a_gpu_is_told_what_to_install() {
    for args in [vec!["info".into()], vec!["check".into()], detect_args(&asset("images/bear.jpg"), &tiny_model(), &[])] {
        let mut command = qdetr(&args);
        command.env("VK_ICD_FILENAMES", "/nonexistent.json").env("VK_DRIVER_FILES", "/nonexistent.json");
        finish(&mut command).fails(1, &["no usable GPU", "mesa-vulkan-drivers"]);
    }
}
