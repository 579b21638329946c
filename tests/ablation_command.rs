//! `qdetr ablation` as users meet it: what it writes, that nothing is done twice, and that numbers of different settings do not mix.

#[path = "common/command.rs"]
#[expect(dead_code, reason = "helpers of other tests")]
mod command;
#[path = "common/tiny.rs"]
mod tiny;
#[path = "common/tiny_files.rs"]
mod tiny_files;

use command::{Run, finish, qdetr};
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

/// A folder with pictures, annotations, a configuration and a float model.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a folder") };
        tiny_files::write(place.folder.path(), 1);
        let float = finish(&mut qdetr(["train".into(), "--out".into(), place.path("float").into()].into_iter().chain(place.common())));
        assert_eq!(float.code, Some(0), "{float:?}");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Data and configuration.
    fn common(&self) -> impl Iterator<Item = OsString> {
        let paths = [("--data", "train.json"), ("--val", "train.json"), ("--config", "config.json")];
        paths.map(|(flag, name)| [OsString::from(flag), self.path(name).into()]).into_iter().flatten()
    }

    /// An ablation of LSQ and the baseline into `out`.
    fn ablation(&self, more: &[&str]) -> Run {
        let model = self.path("float").join("last.safetensors");
        let own = ["ablation".into(), "--out".into(), self.path("out").into(), "--from".into(), model.into()];
        let given = if more.contains(&"--methods") { &[][..] } else { &["--methods", "lsq,baseline"] };
        let more = given.iter().chain(more).map(OsString::from);
        finish(&mut qdetr(own.into_iter().chain(self.common()).chain(more)))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path("out").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn record(&self, run: &str) -> Value {
        serde_json::from_str(&self.read(&format!("{run}/result.json"))).expect("a record")
    }
}

/// The runs that a dry run lists, with how far they have come.
fn standings(run: &Run) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    run.json()["runs"].as_array().expect("runs").iter().map(|r| (text(&r["run"]), text(&r["standing"]))).collect()
}

/// The runs that were trained now.
fn trained(run: &Run) -> Vec<&str> {
    run.err.lines().filter_map(|line| line.strip_prefix("run ")?.split_once(": ")).map(|(_, name)| name).collect()
}

#[test]
fn an_ablation_trains_what_is_left_and_tells_all_of_it() {
    let place = Place::new();
    let more = ["--bits", "4-4-8", "--seeds", "1,2"];
    let dry = place.ablation(&[&more[..], &["--dry-run", "--json"]].concat());
    let names = ["lsq-4-4-8-1", "baseline-4-4-8-1", "lsq-4-4-8-2", "baseline-4-4-8-2"];
    assert_eq!(standings(&dry), names.map(|name| (name.to_owned(), "new".to_owned())));
    assert!(!place.path("out").exists());

    // Time is over before anything begins: only the float model is judged.
    let none = place.ablation(&[&more[..], &["--json", "--max-seconds", "0"]].concat()).json();
    assert_eq!(none["unfinished"].as_array().map(Vec::len), Some(4), "{none}");
    let whole = place.ablation(&[&more[..], &["--json"]].concat());
    let report = whole.json();
    assert_eq!(trained(&whole), names);
    let cells = report["cells"].as_array().expect("cells");
    assert_eq!(cells.len(), 2);
    for (cell, method) in cells.iter().zip(["lsq", "baseline"]) {
        let [one, two] = ["1", "2"].map(|seed| place.record(&format!("{method}-4-4-8-{seed}"))["last"]["AP"].as_f64().expect("AP"));
        assert_eq!((cell["method"].as_str(), cell["AP"]["mean"].as_f64()), (Some(method), Some((one + two) / 2.0)), "{cell}");
    }
    let zero_points = |name: &str| place.record(name)["settings"]["config"]["model"]["quantization"]["zero_points"].as_bool();
    assert_eq!((zero_points(names[0]), zero_points(names[1])), (Some(false), Some(true)));
    let (csv, markdown) = (place.read("ablation.csv"), place.read("ablation.md"));
    assert_eq!(csv.lines().count(), 6, "{csv}");
    assert!(markdown.contains("| Real-valued |") && markdown.contains("| LSQ |") && markdown.contains("seeds 1, 2;"), "{markdown}");
    assert!(image::open(place.path("out").join("ablation.png")).is_ok());

    // What is finished is not done again; what was stopped behind its last step finds the same.
    let records = names.map(|name| place.record(name));
    fs::remove_file(place.path("out").join(names[2]).join("result.json")).expect("a record");
    fs::remove_dir_all(place.path("out").join(names[1])).expect("a run");
    let dry = standings(&place.ablation(&[&more[..], &["--dry-run", "--json"]].concat()));
    assert_eq!(dry.iter().map(|(_, standing)| standing.as_str()).collect::<Vec<_>>(), ["finished", "new", "begun", "finished"]);
    let again = place.ablation(&[&more[..], &["--json"]].concat());
    assert_eq!((trained(&again), again.json()["cells"].clone()), (vec![names[1], names[2]], report["cells"].clone()));
    for (name, before) in names.iter().zip(records) {
        assert_eq!(place.record(name)["last"], before["last"], "{name}");
    }
}

#[test]
fn every_method_has_its_parts_and_the_float_model_is_the_teacher() {
    let place = Place::new();
    let more = ["--bits", "4-4-8", "--seeds", "1", "--methods", "baseline,da,fqm,q-detr", "--lambda", "0.5", "--max-seconds", "1e9"];
    let whole = place.ablation(&[&more[..], &["--json"]].concat());
    let report = whole.json();
    let methods: Vec<&str> = report["cells"].as_array().expect("cells").iter().filter_map(|cell| cell["method"].as_str()).collect();
    assert_eq!(methods, ["baseline", "da", "fqm", "q-detr"]);
    for (method, aligns, distills) in [("baseline", false, false), ("da", true, false), ("fqm", false, true), ("q-detr", true, true)] {
        let folder = place.path("out").join(format!("{method}-4-4-8-1"));
        let log = fs::read_to_string(folder.join("log.jsonl")).expect("a log");
        let model = qdetr::weights::load(&folder.join("last.safetensors")).expect("a model");
        let has_norms = model.tensors.keys().any(|name| name.contains("multihead_attn.q_norm"));
        let first = log.lines().next().expect("a step");
        assert_eq!((has_norms, first.contains("\"distillation\":")), (aligns, distills), "{method}: {first}");
        let settings = &place.record(&format!("{method}-4-4-8-1"))["settings"];
        assert_eq!(settings["teacher"].is_string(), distills, "{settings}");
    }
    // Parts that a method does not have are none of its settings.
    let other = place.ablation(&[&more[..6], &["--lambda", "7"]].concat());
    other.fails(1, &["fqm-4-4-8-1 was made with other settings", "distillation.weight` was 0.5, and is 7"]);
    assert_eq!(place.ablation(&["--bits", "4-4-8", "--seeds", "1", "--methods", "da", "--lambda", "7"]).code, Some(0));
}

#[test]
fn other_settings_are_refused_before_anything_is_trained() {
    let place = Place::new();
    let one = ["--bits", "3-3-8", "--seeds", "5", "--methods", "lsq"];
    assert_eq!(place.ablation(&one).code, Some(0));
    let differs = |more: &[&str], words: &[&str]| place.ablation(&[&one[..], more].concat()).fails(1, words);
    differs(&["--lr", "0.5"], &["lsq-3-3-8-5 was made with other settings", "`config.lr` was 0.002, and is 0.5 now", "--out"]);
    differs(&["--calibration", "lsq"], &["`calibration` was \"mse\", and is \"lsq\" now"]);
    differs(&["--preset", "release"], &["quantization.preset"]);
    // Another run in the same folder may have others, but not another float model.
    let retrained = ["train".into(), "--out".into(), place.path("float").into(), "--seed".into(), "8".into()];
    assert_eq!(finish(&mut qdetr(retrained.into_iter().chain(place.common()))).code, Some(0));
    differs(&[], &["`start` was"]);
    let other = place.ablation(&["--bits", "2-2-8", "--seeds", "5", "--methods", "lsq"]);
    other.fails(1, &["real-valued.json was made with other settings", "`model` was"]);
}

#[test]
fn what_no_ablation_can_start_from_is_said() {
    let place = Place::new();
    let low = place.path("out").join("lsq-4-4-8-1").join("last.safetensors").display().to_string();
    assert_eq!(place.ablation(&["--bits", "4-4-8", "--seeds", "1", "--methods", "lsq"]).code, Some(0));
    let of = |from: PathBuf, more: &[&str]| {
        let own = ["ablation".into(), "--out".into(), place.path("other").into(), "--from".into(), from.into()];
        finish(&mut qdetr(own.into_iter().chain(place.common()).chain(more.iter().map(OsString::from))))
    };
    of(low.clone().into(), &[]).fails(2, &["is of 4-4-8", "starts from a model of floats"]);
    of(command::tiny_model(), &[]).fails(2, &["classes", "train it on these first"]);
    let float = || place.path("float").join("last.safetensors");
    of(float(), &["--calibration", "kl"]).fails(2, &["--calibration kl", "want lsq"]);
    of(float(), &["--lr", "1e9"]).fails(1, &["`lr` is 1000000000"]);
    of(float(), &["--teacher", &low]).fails(1, &["the teacher is of 4-4-8"]);
    assert!(!place.path("other").exists());
    // The folder of a plain training run is left alone.
    fs::create_dir_all(place.path("other")).expect("a folder");
    fs::rename(place.path("float"), place.path("other").join("lsq-4-4-8-1")).expect("a folder");
    let from = place.path("other").join("lsq-4-4-8-1").join("last.safetensors");
    of(from, &["--methods", "lsq", "--seeds", "1"]).fails(1, &["none of an ablation"]);
}
