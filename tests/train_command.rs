//! `qdetr train` as users meet it: what it prints, and how it ends when it is killed or the disk is full.

#[path = "common/command.rs"]
#[expect(dead_code, reason = "helpers of other tests")]
mod command;
#[path = "common/tiny.rs"]
mod tiny;
#[path = "common/tiny_files.rs"]
mod tiny_files;

use command::{finish, qdetr};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Two steps an epoch, saved behind every epoch.
const EPOCHS: u64 = 8;

/// A folder with pictures, annotations and a configuration.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        tiny_files::write(folder.path(), EPOCHS);
        Self { folder }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The arguments of a run into a folder of that name.
    fn args(&self, out: &str, more: &[&str]) -> Vec<OsString> {
        let paths = [("--data", "train.json"), ("--val", "train.json"), ("--config", "config.json"), ("--out", out)];
        let paths = paths.into_iter().flat_map(|(flag, name)| [OsString::from(flag), self.out(name).into()]);
        [OsString::from("train")].into_iter().chain(paths).chain(more.iter().map(OsString::from)).collect()
    }

    /// A run to its end.
    fn whole(&self, out: &str, more: &[&str]) {
        let done = finish(&mut qdetr(self.args(out, more)));
        assert_eq!(done.code, Some(0), "{done:?}");
    }

    #[track_caller]
    fn assert_same(&self, one: &str, other: &str) {
        for name in ["last.safetensors", "best.safetensors", "state.safetensors"] {
            let [one, other] = [one, other].map(|out| fs::read(self.out(out).join(name)).expect("a checkpoint"));
            assert!(one == other, "{name} differs");
        }
    }
}

/// A failure whose last line on stderr holds all of `words`, behind notes that are not about it.
#[track_caller]
fn fails(command: &mut Command, words: &[&str]) {
    let run = finish(command);
    let last = run.err.lines().last().unwrap_or_default();
    assert!(run.code == Some(1) && run.out.is_empty() && last.starts_with("error: "), "{run:?}");
    for word in words {
        assert!(last.contains(word), "no `{word}` in {run:?}");
    }
}

/// Steps in the log of a run.
fn steps(out: &Path) -> usize {
    fs::read_to_string(out.join("log.jsonl")).unwrap_or_default().lines().filter(|line| line.contains("losses")).count()
}

/// Starts a run and kills it so long behind a step.
fn kill_behind(mut command: Command, out: &Path, step: usize, later: Duration) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the command starts");
    let begin = Instant::now();
    while steps(out) <= step {
        assert!(begin.elapsed() < Duration::from_secs(120), "{step} steps take too long");
        assert_eq!(child.try_wait().expect("a process"), None, "it ended by itself");
        sleep(Duration::from_millis(2));
    }
    sleep(later);
    child.kill().expect("a process to kill");
    child.wait().expect("a process");
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_at_the_same_bits() {
    let place = Place::new();
    place.whole("whole", &[]);
    let out = place.out("killed");
    // In the middle of an epoch, at its end, and while it is evaluated or saved.
    for (kill, (step, later)) in [(3, 0), (6, 1), (9, 60), (12, 120)].into_iter().enumerate() {
        let more: &[&str] = if kill == 0 { &[] } else { &["--resume"] };
        kill_behind(qdetr(place.args("killed", more)), &out, step, Duration::from_millis(later));
    }
    place.whole("killed", &["--resume"]);
    place.assert_same("killed", "whole");
    let left: Vec<_> = fs::read_dir(&out).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".part")), "{left:?}");
    assert_eq!(steps(&out), 2 * EPOCHS as usize);
}

#[test]
fn a_dry_run_says_what_a_step_takes_and_the_outcome_is_json() {
    let place = Place::new();
    let dry = |more: &[&str]| finish(&mut qdetr(place.args("dry", &[&["--dry-run", "--json"], more].concat()))).json();
    let (one, three) = (dry(&[]), dry(&["--accumulate", "3", "--query-groups", "1", "--average", "0.99"]));
    assert!(one["launches"][0].as_u64() < three["launches"][0].as_u64(), "{one} {three}");
    for kind in ["weights", "gradients", "optimizer", "scratch", "io"] {
        assert!(one["memory"][kind].as_u64().is_some_and(|n| n > 0), "{one}");
    }
    assert!(one["evaluation"].as_u64().is_some_and(|n| n > 0) && !place.out("dry").exists());
    let text = finish(&mut qdetr(place.args("dry", &["--dry-run"])));
    assert!(text.out.contains("launches") && text.out.contains("scratch"), "{text:?}");
    let outcome = finish(&mut qdetr(place.args("run", &["--json", "--epochs", "1", "--clip", "1"]))).json();
    assert_eq!((outcome["steps"].as_u64(), outcome["out_of_time"].as_bool()), (Some(2), Some(false)), "{outcome}");
    assert!(outcome["last"]["AP50"].is_f64() && outcome["best"]["AP"].is_f64() && outcome["best"]["epoch"] == 0, "{outcome}");
    fails(&mut qdetr(place.args("none", &["--resume"])), &["no state", "without --resume"]);
    fails(&mut qdetr(place.args("run", &["--resume", "--accumulate", "2"])), &["2 of them a step", "1 of them a step"]);
    fails(&mut qdetr(place.args("run", &["--accumulate", "0"])), &["`accumulate` is 0"]);
}

/// A trained model of low bits, packed, finds the same to the bit, and is smaller.
fn assert_exports(place: &Place, model: &str) {
    let packed = place.out("packed.safetensors").display().to_string();
    let export = |from: &str, to: &str| finish(&mut qdetr(["export", "--model", from, "--out", to, "--json"]));
    let report = export(model, &packed).json();
    let size = |path: &str| fs::metadata(path).expect("a file").len();
    assert!(report["file_bytes"].as_u64() == Some(size(&packed)) && size(&packed) * 2 < size(model), "{report}");
    let picture = place.out("0.png").display().to_string();
    let detect = |model: &str| {
        let small = ["--shorter", "64", "--longer", "64", "--threshold", "0", "--json"];
        finish(&mut qdetr(["detect", picture.as_str(), "--model", model].iter().chain(&small))).json()
    };
    let found = detect(&packed);
    assert!(found["images"][0]["detections"].as_array().is_some_and(|all| !all.is_empty()), "{found}");
    // Numbers are printed in full.
    assert_eq!(found, detect(model));
    // What training noted stays with the model, and packing twice changes nothing.
    let metadata = |path: &str| qdetr::weights::load(path.as_ref()).expect("a model").metadata;
    assert!(!metadata(&packed).is_empty() && metadata(&packed) == metadata(model));
    let again = place.out("again.safetensors").display().to_string();
    export(&packed, &again).json();
    assert!(fs::read(&again).expect("a file") == fs::read(&packed).expect("a file"));
    export(&packed, &packed).fails(2, &["is the model itself"]);
    let float = place.out("float").join("last.safetensors").display().to_string();
    export(&float, &again).fails(1, &["last.safetensors", "is of floats", "qdetr quantize"]);
}

#[test]
fn low_bits_start_from_a_float_model_and_go_on_where_they_stopped() {
    let place = Place::new();
    place.whole("float", &["--epochs", "1"]);
    let from = place.out("float").join("last.safetensors").display().to_string();
    let bits = ["--bits", "4-4-8", "--preset", "every-weight", "--lsq"];
    let dry = finish(&mut qdetr(place.args("dry", &[&["--dry-run", "--json"], &bits[..]].concat()))).json();
    assert_eq!(dry["bits"], "4-4-8 (every weight, no zero points)");
    let args = |out: &str, more: &[&str]| place.args(out, &[&["--epochs", "2", "--from", &from], more].concat());
    let run = finish(&mut qdetr(args("whole", &bits)));
    assert!(run.code == Some(0) && run.err.contains("4-4-8 (every weight, no zero points) start from 2 pictures"), "{run:?}");
    place.whole("part", &[&["--epochs", "1", "--from", &from], &bits[..]].concat());
    // Low bits and signs are those of the run, whether they are named again or not.
    fails(&mut qdetr(args("part", &["--bits", "3-4-8", "--resume"])), &["4-4-8 (every", "3-4-8 (compact"]);
    fails(&mut qdetr(place.args("float", &["--bits", "3-4-8", "--resume"])), &["is of floats"]);
    place.whole("part", &["--epochs", "2", "--resume"]);
    let [whole, part] = ["whole", "part"].map(|out| fs::read(place.out(out).join("last.safetensors")).expect("a checkpoint"));
    assert!(whole == part);

    // A model of the same bits brings its step sizes along, one of other bits its weights.
    let from = place.out("part").join("last.safetensors").display().to_string();
    assert_exports(&place, &from);
    let again = |bits: &[&str]| {
        finish(&mut qdetr(place.args("again", &[&["--epochs", "1", "--lr", "0", "--lr-backbone", "0", "--from", &from], bits].concat())))
    };
    let same = again(&bits);
    assert!(same.code == Some(0) && !same.err.contains("pictures"), "{same:?}");
    let tensors = |out: &str| qdetr::weights::load(&place.out(out).join("last.safetensors")).expect("a checkpoint").tensors;
    assert_eq!(tensors("again"), tensors("part"));
    let other = again(&["--bits", "3-3-8"]);
    assert!(other.code == Some(0) && other.err.contains("start anew") && other.err.contains("2 pictures"), "{other:?}");
    assert_ne!(tensors("again"), tensors("part"));
    let float = again(&[]);
    assert!(float.code == Some(0) && float.err.contains("train low bits with --bits"), "{float:?}");

    let wrong = finish(&mut qdetr(place.args("none", &["--lsq"])));
    wrong.fails(2, &["--bits 4-4-8"]);
    for (flag, value) in [("--bits", "4-4"), ("--bits", "1-4-8"), ("--calibration", "kl")] {
        let wrong = finish(&mut qdetr(place.args("none", &[flag, value])));
        assert!(wrong.code == Some(2) && wrong.err.contains(value), "{wrong:?}");
    }
}

#[test]
fn two_stages_and_a_teacher_make_a_q_detr() {
    let place = Place::new();
    place.whole("float", &["--epochs", "1"]);
    let model = |out: &str| place.out(out).join("last.safetensors").display().to_string();
    let float = model("float");
    place.whole("stage1", &["--epochs", "1", "--from", &float, "--bits", "4-4-8", "--preset", "backbone"]);
    let stage1 = model("stage1");
    let q_detr = ["--bits", "4-4-8", "--alignment", "co-attention", "--teacher", &float, "--tau", "0.1"];
    let dry = finish(&mut qdetr(place.args("dry", &[&["--dry-run", "--from", &stage1], &q_detr[..]].concat())));
    assert_eq!(dry.code, Some(0), "{dry:?}");
    let args = |out: &str, epochs: &str| place.args(out, &[&["--epochs", epochs, "--from", &stage1], &q_detr[..]].concat());
    let run = finish(&mut qdetr(args("whole", "2")));
    assert!(run.code == Some(0) && run.err.contains("alignment of queries") && run.err.contains("its own stage"), "{run:?}");
    let log = fs::read_to_string(place.out("whole").join("log.jsonl")).expect("a log");
    assert!(log.lines().next().is_some_and(|line| line.contains("\"distillation\":")), "{log}");

    // The step sizes of the backbone come from its stage, the model knows that it is aligned, and says so to whoever goes on from it.
    let still = ["--epochs", "1", "--lr", "0", "--lr-backbone", "0", "--bits", "4-4-8"];
    place.whole("still", &[&["--from", &stage1], &still[..]].concat());
    let tensors = |out: &str| qdetr::weights::load(&place.out(out).join("last.safetensors")).expect("a checkpoint").tensors;
    let (before, after) = (tensors("stage1"), tensors("still"));
    let kept = before.keys().filter(|name| name.ends_with(".alpha")).inspect(|name| assert_eq!(before[*name], after[*name], "{name}"));
    assert!(kept.count() > 5);
    assert!(after.keys().filter(|name| name.ends_with(".alpha")).count() > before.keys().filter(|name| name.ends_with(".alpha")).count());
    place.whole("on", &[&["--from", &model("whole")], &still[..]].concat());
    assert_eq!(tensors("on"), tensors("whole"));
    assert_exports(&place, &model("whole"));

    // It resumes to the same bits, with the same teacher.
    place.whole("part", &[&["--epochs", "1", "--from", &stage1], &q_detr[..]].concat());
    fails(&mut qdetr(place.args("part", &["--epochs", "2", "--resume", "--alignment", "co-attention"])), &["teacher"]);
    place.whole("part", &[&["--epochs", "2", "--resume"], &q_detr[..]].concat());
    place.assert_same("whole", "part");

    fails(&mut qdetr(place.args("none", &["--teacher", &stage1])), &["4-4-8 (backbone)", "floats"]);
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(place.out("config.json")).expect("a file")).expect("JSON");
    config["distillation"] = serde_json::json!({ "weight": 0.5 });
    fs::write(place.out("config.json"), config.to_string()).expect("a writable folder");
    finish(&mut qdetr(place.args("none", &["--dry-run"]))).fails(2, &["distills", "--teacher"]);
    let wrong = finish(&mut qdetr(place.args("none", &["--lambda", "1"])));
    assert!(wrong.code == Some(2) && wrong.err.contains("--teacher"), "{wrong:?}");
}

#[cfg(unix)]
#[test]
fn a_full_disk_ends_a_run_and_costs_none_of_what_was_saved() {
    let place = Place::new();
    place.whole("whole", &[]);
    kill_behind(qdetr(place.args("full", &[])), &place.out("full"), 1, Duration::ZERO);
    let state = fs::read(place.out("full").join("state.safetensors")).expect("a state");
    // No file may grow beyond this, as on a disk with so much left: enough for the log, too little for a model.
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$@\"", "sh"]);
    let command = qdetr(place.args("full", &["--resume"]));
    shell.arg(command.get_program()).args(command.get_args()).env("QDETR_CACHE", "").stdin(Stdio::null());
    fails(&mut shell, &["safetensors"]);
    assert!(fs::read(place.out("full").join("state.safetensors")).expect("a state") == state);
    let left = fs::read_dir(place.out("full")).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().ends_with(".part")));
    place.whole("full", &["--resume"]);
    place.assert_same("full", "whole");
}
