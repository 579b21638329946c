//! The evaluators against the reference implementations' numbers, and against bad input.

use qdetr::data::{Kind, Strictness};
use qdetr::eval::voc::Rule;
use qdetr::eval::{self, Detection, GroundTruth, coco, voc};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Far below the 1e-6 that is promised: sums of doubles in another order.
const TOLERANCE: f64 = 1e-12;

/// A folder with the two files of a case.
struct Case {
    folder: tempfile::TempDir,
    expected: Value,
    name: String,
}

impl Case {
    fn new(annotations: &Value, detections: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("gt.json"), annotations.to_string()).unwrap();
        fs::write(folder.path().join("dt.json"), detections.to_string()).unwrap();
        Self { folder, expected: Value::Null, name: String::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self) -> qdetr::Result<(eval::Summary, qdetr::data::Report)> {
        eval::run(&self.path("gt.json"), &self.path("dt.json"), Strictness::Skip)
    }
}

fn golden(file: &str) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/golden/eval").join(file);
    let value: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let cases = value.as_array().cloned().unwrap_or_else(|| vec![value]);
    assert!(!cases.is_empty());
    let name = |c: &Value| c["name"].as_str().unwrap_or(file).to_owned();
    cases
        .iter()
        .map(|c| Case { expected: c["expected"].clone(), name: name(c), ..Case::new(&c["annotations"], &c["detections"]) })
        .collect()
}

#[track_caller]
fn same(found: Option<f64>, expected: &Value, what: &str) {
    match (found, expected.as_f64()) {
        (None, None) => {}
        (Some(a), Some(b)) if (a - b).abs() <= TOLERANCE => {}
        (a, b) => panic!("{what}: found {a:?}, expected {b:?}"),
    }
}

fn check_coco(file: &str, at_least: usize) {
    let cases = golden(file);
    assert!(cases.len() >= at_least);
    for case in cases {
        let (summary, _) = case.run().unwrap();
        for (name, value) in summary.numbers() {
            same(Some(value), &case.expected["numbers"][name], &format!("{}: {name}", case.name));
        }
        let classes = case.expected["per_class"].as_object().unwrap();
        assert_eq!(summary.per_class.len(), classes.len());
        for class in &summary.per_class {
            let expected = &classes[&class.id.to_string()];
            same(class.ap, &expected[0], &format!("{}: AP of {}", case.name, class.id));
            same(class.ap50, &expected[1], &format!("{}: AP50 of {}", case.name, class.id));
        }
    }
}

#[test]
fn cocos_own_example_has_pycocotools_numbers() {
    check_coco("coco_fixture.json", 1);
}

#[test]
fn ties_crowds_limits_and_random_cases_have_pycocotools_numbers() {
    check_coco("coco_cases.json", 20);
}

#[test]
fn voc_numbers_are_those_of_the_devkits_rules() {
    let cases = golden("voc_cases.json");
    assert!(cases.len() >= 10);
    for case in cases {
        for (rule, key) in [(Rule::Voc07, "voc07"), (Rule::Voc10, "voc10")] {
            let (summary, _) = eval::run_voc(&case.path("gt.json"), &case.path("dt.json"), Strictness::Skip, rule).unwrap();
            let expected = case.expected[key].as_object().unwrap();
            assert_eq!(summary.per_class.len(), expected.len());
            for class in &summary.per_class {
                same(class.ap, &expected[&class.id.to_string()], &format!("{}: {key} of {}", case.name, class.id));
            }
            let values: Vec<f64> = expected.values().filter_map(Value::as_f64).collect();
            same(Some(summary.map), &json!(values.iter().sum::<f64>() / values.len() as f64), &case.name);
        }
    }
}

fn small() -> (Value, Value) {
    let annotations = json!({
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 3, "name": "cell"}, {"id": 9, "name": "dust"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0},
            {"id": 2, "image_id": 2, "category_id": 3, "bbox": [5, 5, 50, 50], "area": 2500, "iscrowd": 0},
        ],
    });
    let detections = json!([
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 10, 10], "score": 0.9},
        {"image_id": 2, "category_id": 3, "bbox": [80, 5, 10, 10], "score": 0.3, "segmentation": [[1, 2]]},
    ]);
    (annotations, detections)
}

#[test]
fn the_json_has_the_usual_names() {
    let (annotations, detections) = small();
    let (summary, report) = Case::new(&annotations, &detections).run().unwrap();
    assert_eq!(report.total(), 0);
    let value = serde_json::to_value(&summary).unwrap();
    for (name, number) in summary.numbers() {
        assert_eq!(value[name].as_f64(), Some(number), "{name}");
    }
    assert_eq!(value["per_class"][0]["name"], "cell");
    assert!(value["per_class"][0]["AP50"].is_number() && value["per_class"][1]["AP"].is_null());
    let table = summary.to_string();
    assert!(table.contains("AP50") && table.contains("cell") && !table.contains("dust"), "{table}");
}

#[test]
fn area_and_crowd_may_be_left_out_and_flags_may_be_booleans() {
    let (annotations, detections) = small();
    let expected = Case::new(&annotations, &detections).run().unwrap().0;
    let mut bare = annotations.clone();
    for annotation in bare["annotations"].as_array_mut().unwrap() {
        annotation.as_object_mut().unwrap().remove("area");
        annotation["iscrowd"] = json!(false);
    }
    bare["annotations"][0].as_object_mut().unwrap().remove("iscrowd");
    assert_eq!(Case::new(&bare, &detections).run().unwrap().0, expected);
}

#[test]
fn an_evaluation_in_memory_equals_that_of_the_files() {
    for case in golden("coco_cases.json") {
        let (truth, _) = GroundTruth::read(case.path("gt.json"), Strictness::Skip).unwrap();
        let mut found = eval::read_detections(case.path("dt.json")).unwrap();
        let expected = coco::evaluate(&truth, &found).unwrap();
        // The order of the classes in the file is nothing that counts.
        found.sort_by_key(|d| d.category_id);
        assert_eq!(coco::evaluate(&truth, &found).unwrap(), expected, "{}", case.name);
        assert_eq!(case.run().unwrap().0, expected, "{}", case.name);
    }
}

#[test]
fn detections_survive_a_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dt.json");
    let found = vec![
        Detection { image_id: -7, category_id: 3, bbox: [0.1, 1e-9, 12.25, 3.0], score: 0.1 + 0.2 },
        Detection { image_id: i64::MAX, category_id: 0, bbox: [-5.0, 0.0, 1e8, 0.0], score: f64::MIN_POSITIVE },
    ];
    eval::write_detections(&path, &found).unwrap();
    assert_eq!(eval::read_detections(&path).unwrap(), found);
    eval::write_detections(&path, &[]).unwrap();
    assert_eq!(eval::read_detections(&path).unwrap(), []);
}

#[test]
fn detections_that_json_cannot_hold_are_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dt.json");
    let bad = Detection { image_id: 1, category_id: 1, bbox: [0.0, 0.0, f64::NAN, 1.0], score: 0.5 };
    assert!(matches!(eval::write_detections(&path, &[bad]), Err(qdetr::Error::NotFinite(_))));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn wrong_result_files_are_refused_with_the_record() {
    let record = |change: &dyn Fn(&mut Value)| {
        let mut d = small().1;
        change(&mut d[1]);
        d.to_string()
    };
    let cases: Vec<(String, &str)> = vec![
        (String::new(), "expected a COCO result file"),
        ("{}".into(), "expected a COCO result file"),
        ("[".into(), "expected a COCO result file"),
        ("[".repeat(100_000), "expected a COCO result file"),
        ("[1]".into(), "detection 0"),
        ("[null]".into(), "detection 0"),
        (record(&|d| d["score"] = json!("high")), "detection 1: invalid type: string"),
        (record(&|d| d["score"] = Value::Null), "detection 1: its score is missing"),
        (record(&|d| d["score"] = json!("NAN")).replace("\"NAN\"", "NaN"), "detection 1: its score is missing"),
        (record(&|d| d["bbox"] = json!([1, 2, 3])), "detection 1: expected bbox"),
        (record(&|d| d["bbox"] = json!([1, 2, "INF", 3])).replace("\"INF\"", "-Infinity"), "detection 1: expected bbox"),
        (record(&|d| d["bbox"] = json!([1, 2, 1e300, 3])), "detection 1: expected bbox"),
        (record(&|d| d["bbox"] = json!("box")), "detection 1: invalid type"),
        (record(&|d| d["image_id"] = json!(5)), "detection 1: its image 5 is not in the ground truth"),
        (record(&|d| d["image_id"] = json!("2")), "detection 1: invalid type"),
        (record(&|d| d["image_id"] = json!(2.5)), "detection 1: expected a whole number"),
        (record(&|d| drop(d.as_object_mut().unwrap().remove("bbox"))), "detection 1: missing field `bbox`"),
    ];
    for (text, expected) in cases {
        let case = Case::new(&small().0, &json!(null));
        fs::write(case.path("dt.json"), &text).unwrap();
        let error = case.run().unwrap_err().to_string();
        let shown: String = text.chars().take(200).collect();
        assert!(error.contains(expected) && error.contains("dt.json") && error.lines().count() == 1, "{shown}\n{error}");
    }
}

#[test]
fn detections_in_memory_are_checked_too() {
    let (annotations, detections) = small();
    let case = Case::new(&annotations, &detections);
    let (truth, _) = GroundTruth::read(case.path("gt.json"), Strictness::Fatal).unwrap();
    let good = Detection { image_id: 1, category_id: 3, bbox: [0.0, 0.0, 5.0, 5.0], score: 0.5 };
    for bad in [
        Detection { image_id: 8, ..good },
        Detection { score: f64::NAN, ..good },
        Detection { score: f64::INFINITY, ..good },
        Detection { bbox: [0.0, f64::NAN, 1.0, 1.0], ..good },
    ] {
        assert!(coco::evaluate(&truth, &[good, bad]).unwrap_err().to_string().contains("detection 1"), "{bad:?}");
        assert!(voc::evaluate(&truth, &[good, bad], Rule::Voc07).is_err(), "{bad:?}");
    }
    assert!(coco::evaluate(&truth, &[good]).is_ok());
}

#[test]
fn wrong_annotations_are_left_out_and_counted_or_fatal() {
    let (mut annotations, detections) = small();
    let expected = Case::new(&annotations, &detections).run().unwrap().0;
    let list = annotations["annotations"].as_array_mut().unwrap();
    let good = list[0].clone();
    for (key, value) in
        [("id", json!(1)), ("image_id", json!(77)), ("category_id", json!(4)), ("bbox", json!([1, 2, -3, 4])), ("bbox", json!(7))]
    {
        let mut bad = good.clone();
        bad["id"] = json!(list.len() + 1);
        bad[key] = value;
        list.push(bad);
    }
    let case = Case::new(&annotations, &detections);
    let (summary, report) = case.run().unwrap();
    assert_eq!(summary, expected);
    let counts: Vec<_> = report.counts.into_iter().collect();
    let each = [Kind::Malformed, Kind::DuplicateId, Kind::UnknownImage, Kind::UnknownCategory, Kind::BadBox].map(|k| (k, 1));
    assert_eq!(counts, each);
    let error = eval::run(&case.path("gt.json"), &case.path("dt.json"), Strictness::Fatal).unwrap_err().to_string();
    assert!(error.contains("gt.json") && error.contains("more mistakes"), "{error}");
}

#[test]
fn files_that_are_no_annotations_are_refused() {
    for text in [
        "",
        "[]",
        "null",
        "{\"images\": []",
        "{\"images\": [], \"annotations\": []}",
        "\u{0}\u{1}\u{2}",
        "{\"images\": 3, \"annotations\": [], \"categories\": []}",
    ] {
        let case = Case::new(&json!(null), &json!([]));
        fs::write(case.path("gt.json"), text).unwrap();
        let error = case.run().unwrap_err().to_string();
        assert!(error.contains("expected a COCO annotation file") && error.contains("gt.json"), "{text:?}: {error}");
    }
    let case = Case::new(&small().0, &json!([]));
    assert!(eval::run(&case.path("none.json"), &case.path("dt.json"), Strictness::Skip).unwrap_err().to_string().contains("none.json"));
}

/// Runs `qdetr eval` on a case's files: exit code, stdout, stderr.
fn command(case: &Case, more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_qdetr"));
    command.arg("eval").arg("--annotations").arg(case.path("gt.json")).arg("--detections").arg(case.path("dt.json")).args(more);
    let out = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

#[test]
fn the_command_prints_tables_and_json_without_a_gpu() {
    let case = &golden("coco_fixture.json")[0];
    let (code, out, err) = command(case, &["--json"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let value: Value = serde_json::from_str(&out).unwrap();
    for (name, expected) in case.expected["numbers"].as_object().unwrap() {
        same(value[name].as_f64(), expected, name);
    }
    assert_eq!(value["per_class"].as_array().unwrap().len(), 80);
    let (code, out, _) = command(case, &[]);
    assert!(code == Some(0) && out.contains("AP  0.505") && out.contains("person"), "{out}");
    for (flag, metric) in [("--voc07", "voc07"), ("--voc", "voc10")] {
        let (code, out, _) = command(case, &[flag, "--json"]);
        let value: Value = serde_json::from_str(&out).unwrap();
        assert!(code == Some(0) && value["metric"] == metric && value["mAP"].as_f64().unwrap() > 0.5, "{out}");
    }
}

#[test]
fn the_command_names_mistakes_and_fails_where_it_must() {
    let (mut annotations, detections) = small();
    annotations["annotations"][0]["bbox"] = json!([1, 2, -3, 4]);
    let case = Case::new(&annotations, &detections);
    let (code, out, err) = command(&case, &[]);
    assert!(code == Some(0) && out.contains("AP50") && err.contains("warning: ") && err.contains("annotation 1"), "{err}");
    let (code, out, err) = command(&case, &["--strict"]);
    assert!(code == Some(1) && out.is_empty() && err.contains("annotation 1") && err.lines().count() == 1, "{err}");
    fs::write(case.path("dt.json"), "{}").unwrap();
    let (code, out, err) = command(&case, &["--json"]);
    assert!(code == Some(1) && out.is_empty() && err.contains("dt.json"), "{err}");
    assert_eq!(command(&case, &["--voc", "--voc07"]).0, Some(2));
}

#[test]
fn many_detections_are_evaluated_in_seconds() {
    // 2,000 images with 100 detections each in 20 classes; a quadratic step would take minutes even optimized.
    let mut state = 1u64;
    let mut random = move |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let mut truth = Vec::new();
    let mut found = Vec::new();
    for image in 0..2000 {
        for i in 0..100 {
            let bbox = [random(500) as f64, random(400) as f64, 8.0 + random(200) as f64, 8.0 + random(200) as f64];
            let category_id = 1 + random(20) as i64;
            if i < 8 {
                let id = truth.len() as i64 + 1;
                let area = bbox[2] * bbox[3];
                truth.push(qdetr::data::coco::Annotation { id, image_id: image, category_id, bbox, area, crowd: false, difficult: false });
            }
            found.push(Detection { image_id: image, category_id, bbox, score: random(1000) as f64 / 1000.0 });
        }
    }
    let categories = (1..=20).map(|i| (i, format!("class {i}"))).collect();
    let truth = GroundTruth::new((0..2000).collect(), categories, truth);
    let start = std::time::Instant::now();
    let summary = coco::evaluate(&truth, &found).unwrap();
    assert!(summary.ar100 > 0.99 && summary.ap > 0.01);
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}
