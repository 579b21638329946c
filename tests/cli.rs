//! The command as users meet it: what it prints, where, and with which exit code.

#[path = "common/command.rs"]
mod command;

use command::{asset, finish, qdetr, run, tiny_model};
use qdetr::tensor::compare::{Tolerance, compare_floats};
use safetensors::SafeTensors;
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Stdio;

/// The subcommands that the help lists.
fn subcommands() -> Vec<String> {
    let help = run(["--help"]);
    assert_eq!(help.code, Some(0), "{help:?}");
    let listed = help.out.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    // A long description goes on in lines that are indented further.
    let first = listed.filter_map(|l| l.strip_prefix("  ").filter(|l| !l.starts_with(' ')));
    first.filter_map(|l| l.split_whitespace().next()).filter(|&name| name != "help").map(str::to_owned).collect()
}

/// Arguments from texts and paths.
macro_rules! args {
    ($($arg:expr),* $(,)?) => { [$(OsString::from($arg)),*] };
}

/// `detect` on the tiny model and small pictures.
fn detect(more: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut all: Vec<OsString> = args!["detect", "--model", tiny_model(), "--shorter", "64", "--longer", "96"].into();
    all.extend(more);
    all
}

#[test]
fn the_help_names_every_subcommand_and_each_has_its_own() {
    let subcommands = subcommands();
    for known in [
        "detect",
        "classify",
        "bench",
        "tune",
        "forward",
        "plan",
        "trace",
        "info",
        "check",
        "train",
        "ablation",
        "explain",
        "quantize",
        "export",
        "inspect",
        "eval",
        "completions",
    ] {
        assert!(subcommands.iter().any(|s| s == known), "{known} is not among {subcommands:?}");
    }
    for subcommand in subcommands {
        let own = run([&subcommand, "--help"]);
        assert_eq!(own.code, Some(0), "{subcommand}: {own:?}");
        assert!(own.out.contains("Usage: qdetr") && own.out.contains("--gpu"), "{}", own.out);
    }
    assert!(run(["--version"]).out.starts_with("qdetr "));
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_is_right() {
    for (args, word) in [
        (vec!["detect"], "<IMAGE|FOLDER>"),
        (vec!["detekt"], "detect"),
        (vec!["detect", "a.jpg", "--threshold", "7"], "0 to 1"),
        (vec!["detect", "a.jpg", "--batch", "0"], "--batch"),
        (vec!["detect", "a.jpg", "--model", "m", "--preset", "p"], "cannot be used with"),
        (vec!["bench", "model", "--size", "9"], "HEIGHTxWIDTH"),
        (vec!["bench", "train", "--objects", "100000"], "--objects"),
        (vec!["detect", "a.jpg", "--bits", "4-4"], "weights-activations-attention"),
        (vec!["bench", "kernels", "--shader", "a.wgsl"], "--filter"),
        (vec!["bench", "kernels", "--threshold", "1.2"], "--compare"),
        (vec!["bench", "kernels", "--compare", "a.json", "--threshold", "0"], "above 0"),
        (vec!["bench", "kernels", "--runs", "0"], "--runs"),
        (vec!["info", "--tier", "magic"], "portable"),
    ] {
        let run = run(&args);
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{args:?}: {run:?}");
        assert!(run.err.contains(word), "{args:?}: {run:?}");
    }
    run(args!["detect", asset("images/bear.jpg"), "--bits", "4-4-8"]).fails(2, &["--preset", "qdetr quantize"]);
    run(args!["detect", asset("images/bear.jpg"), "--preset", "yolo"]).fails(2, &["detr-resnet50"]);
    run(args!["detect", asset("images/bear.jpg"), "--preset", "detr-vgg"]).fails(2, &["resnet50", "mobilenet_v2"]);
    run(args!["detect", asset("images/bear.jpg"), "--shorter", "900", "--longer", "800"]).fails(2, &["--longer 800"]);
    run(["check", "--filter", "no such op"]).fails(2, &["linear"]);
    let wrong = run(["check", "--part", "5/4"]);
    assert!(wrong.code == Some(2) && wrong.err.contains("1/4"), "{wrong:?}");
    run(["bench", "kernels", "--quick", "--filter", "no such op"]).fails(2, &["no such op", "linear"]);
}

#[test]
fn info_lists_the_adapter_that_is_used() {
    let info = run(["info", "--json"]).json();
    let used = info["used"].as_u64().expect("an adapter is used") as usize;
    let adapter = &info["adapters"][used];
    assert!(adapter["name"].as_str().is_some_and(|n| !n.is_empty()), "{adapter}");
    assert!(adapter["capabilities"]["workgroup_memory"].as_u64().is_some_and(|n| n >= 16 << 10), "{adapter}");
    let text = run(["info"]);
    assert!(text.out.contains("<- used") && text.out.contains("driver"), "{text:?}");
    // The same adapter by index, by a part of its name, and through the environment.
    let name = adapter["name"].as_str().unwrap_or_default().to_uppercase();
    for wanted in [used.to_string(), name.clone()] {
        assert_eq!(run(["info", "--json", "--gpu", &wanted]).json()["used"], info["used"]);
    }
    assert_eq!(finish(qdetr(["info", "--json"]).env("QDETR_GPU", &name)).json()["used"], info["used"]);
    finish(qdetr(["info"]).env("QDETR_GPU", "no such card")).fails(2, &["no such card"]);
    run(["info", "--gpu", "no such card"]).fails(2, &["no such card", "0: "]);
    run(["info", "--gpu", "99"]).fails(2, &["99", "0: "]);
}

#[test]
fn check_reports_each_family_and_reruns_a_case_by_its_name() {
    let report = run(["check", "--json", "--filter", "f32[257]"]).json();
    assert_eq!(report["failures"], 0);
    assert!(report["kernels"].as_u64().is_some_and(|n| n >= 4), "{report}");
    let names: Vec<&str> = report["families"].as_array().into_iter().flatten().filter_map(|f| f["name"].as_str()).collect();
    assert!(names.contains(&"unary"), "{names:?}");
    let text = run(["check", "--filter", "unary Unary { function: Relu, to: F32 }(f32[257])"]);
    assert!(text.out.contains("all 1 kernels agree"), "{text:?}");
}

#[test]
fn completions_know_the_subcommands() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run(["completions", shell]);
        assert_eq!(script.code, Some(0));
        assert!(script.out.contains("detect") && script.out.contains("threshold"), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    for args in [&["completions", "bash"][..], &["info"], &["--help"]] {
        let mut child = qdetr(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn the_imagenet_backbone_ranks_the_sample_photos_right() {
    let report = run(args!["classify", asset("images"), "--json"]).json();
    let truth = [("bear.jpg", "brown bear"), ("locomotive.jpg", "steam locomotive"), ("pizza.jpg", "pizza")];
    let has = |(file, class): &(&str, &str)| {
        let images = report["images"].as_array().into_iter().flatten();
        let mut of_file = images.filter(|i| i["image"].as_str().is_some_and(|path| path.ends_with(file)));
        of_file.any(|i| i["classes"].as_array().is_some_and(|all| all.len() == 5 && all.iter().any(|c| c["class"] == *class)))
    };
    let right = truth.iter().filter(|t| has(t)).count();
    assert!(right >= 2, "only {right} of 3 in the top 5: {report:#}");
}

/// All four formats on disk, through the command, against what PyTorch answered.
#[test]
fn forward_answers_as_pytorch_does() {
    let folder = tempfile::tempdir().expect("a folder");
    for (model, goldens) in [
        ("hf_basic", "hf_basic"),
        ("hf_timm_bottleneck", "hf_bottleneck"),
        ("hf_timm_dc5", "hf_timm_dc5"),
        ("original_basic/model.pth", "original_basic"),
        ("original_basic/model_legacy.pth", "original_basic"),
    ] {
        let (model, golden) = (asset("golden/models").join(model), asset("golden/models").join(goldens).join("io.safetensors"));
        let output = folder.path().join("out.safetensors");
        let done = run(args!["forward", "--model", &model, "--input", &golden, "--output", &output, "--hidden"]);
        assert_eq!((done.code, done.out.as_str()), (Some(0), ""), "{done:?}");
        let (found, expected) = (fs::read(&output).expect("an output"), fs::read(&golden).expect("a golden"));
        let (found, expected) =
            (SafeTensors::deserialize(&found).expect("safetensors"), SafeTensors::deserialize(&expected).expect("safetensors"));
        for name in ["logits", "pred_boxes"] {
            let (found, expected) = (found.tensor(name).expect(name), expected.tensor(name).expect(name));
            assert_eq!(found.shape(), expected.shape(), "{name}");
            let floats = |bytes: &[u8]| bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<_>>();
            let compared = compare_floats(&floats(found.data()), &floats(expected.data()), Tolerance::of(1e-4));
            compared.unwrap_or_else(|e| panic!("{}, {name}: {e}", model.display()));
        }
        for name in ["encoder_memory", "decoder_hidden.0", "aux_logits.1", "aux_boxes.1"] {
            assert!(found.tensor(name).is_ok(), "no {name} in {:?}", found.names());
        }
    }
}

fn is_detection(d: &Value, width: f64, height: f64) -> bool {
    let corners: Vec<f64> = d["bbox"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    let [left, top, right, bottom] = corners[..] else { return false };
    let inside = 0.0 <= left && left <= right && right <= width && 0.0 <= top && top <= bottom && bottom <= height;
    inside && d["class"].is_string() && d["class_id"].is_u64() && d["score"].as_f64().is_some_and(|s| (0.0..=1.0).contains(&s))
}

#[test]
fn detect_prints_json_and_writes_records_and_pictures() {
    let folder = tempfile::tempdir().expect("a folder");
    let (out, coco) = (folder.path().join("boxes"), folder.path().join("found.json"));
    let report = run(detect(args![asset("images"), "--threshold", "0", "--json", "--out", &out, "--coco", &coco, "--batch", "2"])).json();
    let images = report["images"].as_array().expect("a list");
    assert_eq!(images.len(), 3);
    let sizes: Vec<(u64, u64)> = images.iter().filter_map(|i| Some((i["width"].as_u64()?, i["height"].as_u64()?))).collect();
    assert_eq!(sizes, [(288, 314), (333, 288), (400, 288)]);
    for (image, (width, height)) in images.iter().zip(sizes) {
        let detections = image["detections"].as_array().expect("a list");
        assert_eq!(detections.len(), 11, "one a query");
        assert!(detections.iter().all(|d| is_detection(d, width as f64, height as f64)), "{detections:?}");
        assert!(detections.windows(2).all(|pair| pair[0]["score"].as_f64() >= pair[1]["score"].as_f64()));
    }
    for (name, (width, height)) in ["bear.jpg", "locomotive.jpg", "pizza.jpg"].into_iter().zip([(288, 314), (333, 288), (400, 288)]) {
        let (drawn, photo) = (out.join(name), asset("images").join(name));
        let (drawn, photo) = (qdetr::data::image::read(drawn).expect("a picture"), qdetr::data::image::read(photo).expect("a picture"));
        assert_eq!(drawn.dimensions(), (width, height));
        assert!(
            drawn.pixels().zip(photo.pixels()).any(|(a, b)| a.0.iter().zip(b.0).any(|(a, b)| a.abs_diff(b) > 40)),
            "nothing drawn on {name}"
        );
    }
    let records: Vec<Value> = serde_json::from_str(&fs::read_to_string(&coco).expect("records")).expect("JSON");
    assert_eq!(records.len(), 33);
    assert!(records.iter().all(|r| r["bbox"].as_array().is_some_and(|b| b.len() == 4) && r["category_id"].is_u64() && r["score"].is_f64()));
    assert_eq!((&records[0]["image_id"], &records[32]["image_id"]), (&0.into(), &2.into()));
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2, "something is left over");
}

#[test]
fn detect_prints_lines_for_people_and_draws_only_when_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let photo = folder.path().join("000000000139.jpg");
    fs::copy(asset("images/bear.jpg"), &photo).expect("a copy");
    let coco = folder.path().join("found.json");
    let text = run(detect(args![&photo, "--threshold", "0.2", "--coco", &coco]));
    assert_eq!(text.code, Some(0), "{text:?}");
    assert!(text.out.contains("objects on 288 × 314 pixels"), "{text:?}");
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2);
    let records: Vec<Value> = serde_json::from_str(&fs::read_to_string(&coco).expect("records")).expect("JSON");
    assert!(records.iter().all(|r| r["image_id"] == 139));
    let top = run(detect(args![&photo, "--threshold", "0", "--top", "3"]));
    assert_eq!(top.out.lines().count(), 1 + 3, "{top:?}");
    let inside = run(detect(args![&photo, "--out", folder.path()]));
    inside.fails(2, &["--out", "overwritten"]);
}

/// Ids that count from 1, or otherwise, as data sets have them: with them `qdetr eval` understands what was found.
#[test]
fn classes_have_the_ids_of_an_annotation_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path
    };
    let annotations = |classes: &str| {
        format!(
            r#"{{"images": [{{"id": 0, "file_name": "0.jpg", "width": 320, "height": 240}}], "annotations": [], "categories": [{classes}]}}"#
        )
    };
    let all = r#"{"id": 9, "name": "WBC"}, {"id": 5, "name": "Platelets"}, {"id": 7, "name": "RBC"}"#;
    let good = file("good.json", &annotations(all));
    let coco = folder.path().join("found.json");
    // The built-in model, which knows cells by name.
    let cells = |more: &[&std::ffi::OsStr]| {
        let mut args: Vec<OsString> = args!["detect", asset("images/bear.jpg"), "--threshold", "0", "--top", "60"].into();
        args.extend(more.iter().map(|&arg| arg.to_owned()));
        run(args)
    };
    let records = |more: &[&std::ffi::OsStr]| -> Vec<i64> {
        let found = cells(&[&["--coco".as_ref(), coco.as_os_str()], more].concat());
        assert_eq!(found.code, Some(0), "{found:?}");
        let records: Vec<Value> = serde_json::from_str(&fs::read_to_string(&coco).expect("records")).expect("JSON");
        records.iter().map(|r| r["category_id"].as_i64().expect("an id")).collect()
    };
    let numbers = records(&[]);
    let ids = records(&["--categories".as_ref(), good.as_os_str()]);
    assert!(!numbers.is_empty() && numbers.iter().all(|&class| (0..3).contains(&class)), "{numbers:?}");
    assert_eq!(ids, numbers.iter().map(|&class| [7, 9, 5][class as usize]).collect::<Vec<_>>());
    fs::remove_file(&coco).expect("it was written");
    let refused = |path: &std::path::Path, code, words: &[&str]| {
        cells(&["--coco".as_ref(), coco.as_os_str(), "--categories".as_ref(), path.as_os_str()]).fails(code, words);
        assert!(!coco.exists());
    };
    let few = file("few.json", &annotations(r#"{"id": 9, "name": "WBC"}, {"id": 5, "name": "Platelets"}"#));
    refused(&few, 2, &["few.json", "no class `RBC`", "it has Platelets, WBC"]);
    refused(&file("cut.json", &annotations(all)[..60]), 1, &["cut.json"]);
    refused(&file("none.json", "[1, 2]"), 1, &["none.json"]);
    refused(&folder.path().join("missing.json"), 1, &["missing.json"]);
    let without = cells(&["--categories".as_ref(), good.as_os_str()]);
    assert_eq!(without.code, Some(2), "{without:?}");
    let of_coco = run(detect(args![asset("images/bear.jpg"), "--coco", &coco, "--categories", &good]));
    of_coco.fails(2, &["good.json", "no class `person`"]);
}

/// Different pictures of one size, alone and in batches with a remainder: the same answers, each for its own picture. (Padding
/// changes answers, as in PyTorch: the goldens hold that.)
#[test]
fn batching_does_not_change_what_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    for (i, name) in ["bear", "locomotive", "pizza", "bear", "pizza"].into_iter().enumerate() {
        let photo = qdetr::data::image::read(asset(&format!("images/{name}.jpg"))).expect("a picture");
        let crop = image::imageops::crop_imm(&photo, 20 * i as u32, 30, 160, 120).to_image();
        qdetr::data::image::write(folder.path().join(format!("{i}.png")), &crop).expect("a picture");
    }
    let found = |batch: &str| {
        let report = run(detect(args![folder.path(), "--threshold", "0", "--json", "--batch", batch])).json();
        let images = report["images"].as_array().cloned().unwrap_or_default();
        let detections = images.iter().flat_map(|i| i["detections"].as_array().cloned().unwrap_or_default());
        let numbers =
            |d: Value| [d["score"].clone()].into_iter().chain(d["bbox"].as_array().cloned().unwrap_or_default()).collect::<Vec<_>>();
        detections.flat_map(numbers).filter_map(|n| n.as_f64()).map(|n| n as f32).collect::<Vec<f32>>()
    };
    let (single, batched) = (found("1"), found("2"));
    assert_eq!(single.len(), 5 * 11 * 5);
    assert_ne!(single[..55], single[55..110], "the pictures look alike to the model: nothing is tested");
    compare_floats(&batched, &single, Tolerance::of(1e-3)).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn plan_and_trace_and_bench_speak_of_the_same_steps() {
    let model = tiny_model();
    let plan = run(args!["plan", "--model", &model, "--size", "64x80"]);
    assert_eq!(plan.code, Some(0), "{plan:?}");
    assert!(plan.out.contains("transformer.encoder.layers.0") && plan.out.contains("memory: "), "{plan:?}");
    let steps = plan.out.lines().filter(|l| !l.starts_with("memory")).count();
    let bench = run(args!["bench", "model", "--model", &model, "--size", "64x80", "--runs", "2", "--json"]).json();
    assert_eq!(bench["dispatches"].as_u64(), Some(steps as u64));
    assert!(bench["run_ms"]["median"].as_f64().is_some_and(|ms| ms > 0.0), "{bench}");
    assert!(bench["peak_bytes"].as_u64().is_some_and(|n| n > 0), "{bench}");
    let trace = run(args!["trace", asset("images/bear.jpg"), "--model", &model, "--shorter", "64"]);
    assert_eq!(trace.code, Some(0), "{trace:?}");
    assert!(trace.out.contains("nodes agree"), "{trace:?}");
}

#[test]
fn bench_profiles_steps_where_the_gpu_has_timestamps() {
    let bench = run(args!["bench", "model", "--model", tiny_model(), "--size", "64x80", "--runs", "1", "--profile"]);
    let info = run(["info", "--json"]).json();
    let adapter = &info["adapters"][info["used"].as_u64().expect("an index") as usize];
    if adapter["capabilities"]["timestamps"] == true {
        assert!(
            bench.code == Some(0) && ["slowest steps", "net: GB/s without the"].iter().all(|part| bench.out.contains(part)),
            "{bench:?}"
        );
    } else {
        bench.fails(1, &["timestamp"]);
    }
}

#[test]
fn the_readme_begins_with_two_commands_and_names_every_subcommand() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("a readme");
    for command in ["make demo", "make test"] {
        assert!(readme.contains(command), "{command}");
    }
    for subcommand in subcommands() {
        assert!(readme.contains(&format!("qdetr {subcommand}")), "README does not mention `qdetr {subcommand}`");
    }
}

/// `bench kernels` on the smallest cases of one op.
fn bench_kernels(more: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut all: Vec<OsString> = args!["bench", "kernels", "--quick", "--runs", "2", "--filter", "softmax Softmax"].into();
    all.extend(more);
    all
}

#[test]
fn bench_kernels_tells_rates_and_compares_with_an_earlier_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let (earlier, csv, plot) = (folder.path().join("earlier.json"), folder.path().join("a.csv"), folder.path().join("a.png"));
    let mut report = run(bench_kernels(args!["--json", "--csv", &csv, "--plot", &plot])).json();
    let cases = report["cases"].as_array().expect("cases").clone();
    assert!(!cases.is_empty() && report["roofline"]["copy_gb_s"].as_f64().is_some_and(|r| r > 0.0), "{report}");
    for kernel in cases.iter().flat_map(|case| case["kernels"].as_array().expect("kernels")) {
        assert!(kernel["roofline_percent"].as_f64().is_some_and(|p| p > 0.0) && kernel["wrong"].is_null(), "{kernel}");
    }
    let lines: usize = cases.iter().map(|case| case["kernels"].as_array().map_or(0, Vec::len)).sum();
    assert_eq!(fs::read_to_string(&csv).expect("a table").lines().count(), lines + 1);
    assert!(image::open(&plot).expect("a plot").width() > 0);
    // Whatever the machine does meanwhile, it is faster than an hour and slower than a picosecond.
    for (time, code) in [(3.6e9, 0), (1e-6, 1)] {
        for case in report["cases"].as_array_mut().expect("cases") {
            case["kernels"][0]["time_us"]["median"] = time.into();
        }
        fs::write(&earlier, report.to_string()).expect("it is written");
        let compared = run(bench_kernels(args!["--compare", &earlier]));
        assert_eq!(compared.code, Some(code), "{compared:?}");
        assert!(compared.out.contains("slower than 1.1 times") && compared.out.contains("SLOWER") == (code == 1), "{compared:?}");
    }
    fs::write(&earlier, "{}").expect("it is written");
    run(bench_kernels(args!["--compare", &earlier])).fails(1, &["earlier.json", "bench kernels --json"]);
    run(bench_kernels(args!["--compare", folder.path().join("none.json")])).fails(1, &["none.json"]);
}

#[test]
fn bench_kernels_times_a_product_of_given_sizes_and_refuses_others() {
    let product = |sizes: &str| run(args!["bench", "kernels", "--runs", "1", format!("--product={sizes}")]);
    let small = product("3x16x8");
    assert!(small.code == Some(0) && small.out.contains("integer_linear") && small.out.contains("f32[3, 16]"), "{small:?}");
    for wrong in ["", "3", "3x16", "0x16x8", "3x16x8x1", "3xx8", "-3x16x8", "3x16x99999999999999999999", "65536x65536x65536"] {
        let run = product(wrong);
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{run:?}");
        assert!(run.err.contains("--product") && run.err.contains("such as 4096x4096x4096"), "{run:?}");
    }
    let both = run(args!["bench", "kernels", "--product", "3x16x8", "--batch", "2"]);
    assert!(both.code == Some(2) && both.err.contains("--product") && both.err.contains("--batch"), "{both:?}");
}

#[test]
fn bench_kernels_times_only_a_strangers_shader_that_is_right() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("own.wgsl");
    let with = |text: &str| {
        fs::write(&path, text).expect("it is written");
        run(args!["bench", "kernels", "--quick", "--runs", "2", "--filter", "unary Unary", "--shader", &path])
    };
    let ours = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders/unary.wgsl")).expect("ours");
    let right = with(&ours);
    assert!(right.code == Some(0) && right.out.contains("own.wgsl") && right.out.contains("run-time checks"), "{right:?}");
    let fails = |text: &str, word: &str| {
        let run = with(text);
        assert_eq!((run.code, run.out.as_str()), (Some(1), ""), "{run:?}");
        assert!(run.err.contains("own.wgsl") && run.err.contains(word) && !run.err.contains("bug in qdetr"), "no `{word}`: {run:?}");
    };
    fails(&ours.replace("@binding(2)", "@binding(7)"), "holes");
    fails(&ours.replace("read_write>", "read>"), "");
    fails("#import nothing.wgsl", "common/index.wgsl");
    fails("fn main( {", "expected");
    fails(&ours.replace("exp(", "sin("), "CPU twin");
    let ambiguous = run(args!["bench", "kernels", "--quick", "--filter", "unary", "--shader", &path]);
    ambiguous.fails(2, &["--filter", "unary_backward.wgsl"]);
}
