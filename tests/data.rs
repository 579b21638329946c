//! The readers of data sets: what they make of good files, and of all kinds of bad ones.

use proptest::prelude::*;
use qdetr::data::{Categories, Dataset, Kind, Options, Report, Strictness, voc};
use qdetr::eval::{GroundTruth, Summary};
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

/// A file below a folder, with the folders on the way.
fn put(root: &TempDir, path: &str, content: impl AsRef<[u8]>) {
    let path = root.path().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn picture(root: &TempDir, path: &str, width: u32, height: u32) {
    let full = root.path().join(path);
    fs::create_dir_all(full.parent().unwrap()).unwrap();
    image::RgbImage::new(width, height).save(full).unwrap();
}

fn strict() -> Options {
    Options { strictness: Strictness::Fatal, categories: None }
}

/// Two pictures of 100 × 80 pixels, four objects, three classes.
fn annotations() -> Value {
    json!({
        "info": {"year": 2017},
        "images": [
            {"id": 42, "file_name": "b.png", "width": 100, "height": 80},
            {"id": 7, "file_name": "a.png", "width": 100, "height": 80},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
        "annotations": [
            {"id": 10, "image_id": 7, "category_id": 90, "bbox": [10.5, 20, 30, 40], "area": 900.5, "iscrowd": 0, "segmentation": [[1, 2, 3]]},
            {"id": 11, "image_id": 7, "category_id": 1, "bbox": [0, 0, 100, 80], "area": 5000, "iscrowd": 1, "segmentation": {"counts": "a\"NaN"}},
            {"id": 12, "image_id": 42, "category_id": 18, "bbox": [90, 70, 10.4, 10.4], "area": 100, "iscrowd": 0},
            {"id": 13, "image_id": 7, "category_id": 1, "bbox": [5, 5, 1, 2], "area": 2, "iscrowd": 0},
        ],
    })
}

fn coco(annotations: &Value) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    put(&root, "annotations/instances_val2017.json", annotations.to_string());
    picture(&root, "val2017/a.png", 100, 80);
    picture(&root, "val2017/b.png", 100, 80);
    root
}

#[test]
fn a_coco_folder_is_read_as_downloaded() {
    let root = coco(&annotations());
    let set = Dataset::open_with(root.path(), Some("val"), &strict()).unwrap();
    assert_eq!(set.categories.names(), ["person", "dog", "toothbrush"]);
    assert_eq!(set.categories.ids(), [1, 18, 90]);
    let [b, a] = set.images.as_slice() else { panic!("{:?}", set.images) };
    assert_eq!((b.id, b.width, b.height, b.path.as_path()), (42, 100, 80, root.path().join("val2017/b.png").as_path()));
    assert_eq!(a.objects.iter().map(|o| (o.id, o.label, o.crowd)).collect::<Vec<_>>(), [(10, 2, false), (11, 0, true), (13, 0, false)]);
    assert_eq!((a.objects[0].bbox, a.objects[0].area), ([10.5, 20.0, 40.5, 60.0], 900.5));
    // Rounded a little beyond the picture: clipped for training, kept for evaluation, no mistake.
    assert_eq!((b.objects[0].bbox, b.objects[0].original), ([90.0, 70.0, 100.0, 80.0], [90.0, 70.0, 10.4, 10.4]));
    // By the file itself, too; and without a split where there is one only.
    let file = root.path().join("annotations/instances_val2017.json");
    assert_eq!(Dataset::open(&file, None).unwrap(), set);
    assert_eq!(Dataset::open(root.path(), None).unwrap(), set);
}

#[test]
fn crowds_and_boxes_without_area_are_kept_but_not_trained_on() {
    let mut value = annotations();
    let list = value["annotations"].as_array_mut().unwrap();
    list.push(json!({"id": 14, "image_id": 7, "category_id": 1, "bbox": [5, 5, 0, 2], "area": 0, "iscrowd": 0}));
    list.push(json!({"id": 15, "image_id": 7, "category_id": 1, "bbox": [500, 5, 10, 10], "area": 100, "iscrowd": 0}));
    let set = Dataset::open(coco(&value).path(), None).unwrap();
    let a = &set.images[1];
    assert_eq!(a.objects.len(), 5);
    assert_eq!(a.trainable().map(|o| o.id).collect::<Vec<_>>(), [10, 13]);
    assert_eq!((set.report.count(Kind::EmptyBox), set.report.count(Kind::OutsideBox), set.report.total()), (1, 1, 2));
}

#[test]
fn the_ground_truth_of_a_data_set_is_that_of_its_file() {
    let root = coco(&annotations());
    let set = Dataset::open(root.path(), None).unwrap();
    let (from_file, report) = GroundTruth::read(root.path().join("annotations/instances_val2017.json"), Strictness::Fatal).unwrap();
    assert_eq!(report, Report::default());
    let found: Vec<_> = from_file
        .annotations()
        .iter()
        .map(|a| qdetr::eval::Detection { image_id: a.image_id, category_id: a.category_id, bbox: a.bbox, score: 0.5 })
        .collect();
    let summary = |truth: &GroundTruth| -> Summary { qdetr::eval::coco::evaluate(truth, &found).unwrap() };
    assert_eq!(summary(&GroundTruth::of(&set)), summary(&from_file));
    assert!(summary(&from_file).ap > 0.9);
}

#[test]
fn the_classes_of_a_model_are_found_by_name() {
    let known = Categories::from_names(["cat", "dog", "person"]).unwrap();
    let options = Options { strictness: Strictness::Skip, categories: Some(known.clone()) };
    let set = Dataset::open_with(coco(&annotations()).path(), None, &options).unwrap();
    assert_eq!(set.categories, known);
    let labels: Vec<_> = set.images.iter().flat_map(|i| i.objects.iter().map(|o| (o.id, o.label))).collect();
    assert_eq!(labels, [(12, 1), (11, 2), (13, 2)]);
    assert_eq!(set.report.count(Kind::UnknownCategory), 1);
    assert!(set.report.issues[0].to_string().contains("annotation 10"), "{:?}", set.report.issues);
}

#[test]
fn sizes_that_are_not_annotated_are_read_from_the_picture() {
    let mut value = annotations();
    value["images"][0]["width"] = json!(0);
    value["images"][1].as_object_mut().unwrap().remove("height");
    let set = Dataset::open_with(coco(&value).path(), None, &strict()).unwrap();
    assert!(set.images.iter().all(|i| (i.width, i.height) == (100, 80)));
}

/// Changes one thing in a good file; says which mistake that is and how it is named.
fn coco_mistakes() -> Vec<(Kind, &'static str, Value)> {
    let changed = |list: &str, at: usize, key: &str, to: Value| {
        let mut value = annotations();
        value[list][at][key] = to;
        value
    };
    let of = |key: &str, to: Value| changed("annotations", 0, key, to);
    vec![
        (Kind::UnknownImage, "annotation 10: its image 5 ", of("image_id", json!(5))),
        (Kind::UnknownCategory, "annotation 10: its category 5 ", of("category_id", json!(5))),
        (Kind::DuplicateId, "annotations[1]: the id 11 ", {
            let mut value = annotations();
            value["annotations"][0]["id"] = json!(11);
            value
        }),
        (Kind::DuplicateId, "images[1]: the id 42 ", changed("images", 1, "id", json!(42))),
        (Kind::DuplicateId, "categories[1]: the id 90 ", changed("categories", 1, "id", json!(90))),
        (Kind::BadBox, "annotation 10: expected bbox", of("bbox", json!([1, 2, 3]))),
        (Kind::BadBox, "annotation 10: expected bbox", of("bbox", json!([1, 2, 3, 4, 5]))),
        (Kind::BadBox, "annotation 10: expected bbox", of("bbox", json!([1, 2, -3, 4]))),
        (Kind::BadBox, "annotation 10: expected bbox", of("bbox", json!([1, 2, null, 4]))),
        (Kind::BadBox, "annotation 10: expected bbox", of("bbox", json!([1, 2, 1e200, 4]))),
        (Kind::BadBox, "annotation 10: expected bbox", of("bbox", json!([]))),
        (Kind::EmptyBox, "annotation 10: its box of 0 x 4", of("bbox", json!([1, 2, 0, 4]))),
        (Kind::OutsideBox, "annotation 10: its box 1, 2 to 301, 6 leaves", of("bbox", json!([1, 2, 300, 4]))),
        (Kind::OutsideBox, "annotation 10: its box -5, 2 to", of("bbox", json!([-5, 2, 10, 4]))),
        (Kind::ZeroId, "annotation 0: pycocotools", of("id", json!(0))),
        (Kind::Malformed, "annotations[0] (id 10): invalid type", of("bbox", json!("1 2 3 4"))),
        (Kind::Malformed, "annotations[0] (id 10): invalid type", of("bbox", json!([1, 2, "3", 4]))),
        (Kind::Malformed, "annotations[0] (id 10): invalid type", of("category_id", json!("dog"))),
        (Kind::Malformed, "annotations[0]: expected a whole number", of("id", json!(1.5))),
        (Kind::Malformed, "annotations[0] (id 10): data did not match", of("iscrowd", json!("no"))),
        (Kind::Malformed, "annotations[0]: missing field", {
            let mut value = annotations();
            value["annotations"][0].as_object_mut().unwrap().remove("id");
            value
        }),
        (Kind::Malformed, "annotations[4]: invalid type", {
            let mut value = annotations();
            value["annotations"].as_array_mut().unwrap().push(json!(17));
            value
        }),
        (Kind::Malformed, "images[0] (id 42): invalid type", changed("images", 0, "file_name", json!(3))),
        (Kind::MissingFile, "image 42: ", changed("images", 0, "file_name", json!("c.png"))),
        (Kind::MissingFile, "image 42: ", changed("images", 0, "file_name", json!("../val2017"))),
        (Kind::Malformed, "image 42: it has no file_name", changed("images", 0, "file_name", json!(null))),
    ]
}

#[test]
fn every_coco_mistake_is_named_counted_and_skipped_or_fatal() {
    for (kind, named, value) in coco_mistakes() {
        let root = coco(&value);
        let set = Dataset::open(root.path(), None).unwrap_or_else(|e| panic!("{named}: {e}"));
        assert!(set.report.count(kind) == 1, "{named}: {:?}", set.report);
        let issue = set.report.issues.iter().find(|i| i.kind == kind).unwrap().to_string();
        assert!(issue.contains(named) && issue.contains("instances_val2017.json"), "expected `{named}` in `{issue}`");
        let first = set.report.issues[0].to_string();
        let fatal = Dataset::open_with(root.path(), None, &strict()).unwrap_err().to_string();
        assert!(fatal.starts_with(&first), "{fatal}");
    }
}

#[test]
fn numbers_that_are_none_are_found_though_json_does_not_know_them() {
    let mut value = annotations();
    value["annotations"][0]["bbox"] = json!([1, "@", 3, 4]);
    value["annotations"][3]["bbox"] = json!([1, 2, "#", 4]);
    let text = value.to_string().replace("\"@\"", "NaN").replace("\"#\"", "-Infinity");
    let root = coco(&value);
    put(&root, "annotations/instances_val2017.json", text);
    let set = Dataset::open(root.path(), None).unwrap();
    assert_eq!((set.report.count(Kind::BadBox), set.report.total()), (2, 2));
    assert_eq!(set.images.iter().map(|i| i.objects.len()).sum::<usize>(), 2);
}

#[test]
fn files_that_are_no_annotations_are_refused_in_one_line() {
    let good = annotations().to_string();
    let deep = format!("{{\"images\": {}", "[".repeat(200_000));
    let no_images = json!({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}).to_string();
    let no_classes = json!({"images": [], "annotations": [], "categories": []}).to_string();
    for text in ["", "[]", "{}", "not json", &good[..good.len() / 2], &deep, &no_images, &no_classes, "\u{feff}"] {
        let root = coco(&annotations());
        put(&root, "annotations/instances_val2017.json", text);
        let error = Dataset::open(root.path(), None).unwrap_err().to_string();
        assert!(error.contains("instances_val2017.json") && error.lines().count() == 1, "{error}");
    }
    let root = coco(&annotations());
    put(&root, "annotations/instances_val2017.json", [0xff, 0xfe, 0x00]);
    assert!(Dataset::open(root.path(), None).unwrap_err().to_string().contains("UTF-8"));
}

#[test]
fn a_byte_order_mark_is_no_mistake() {
    let root = coco(&annotations());
    put(&root, "annotations/instances_val2017.json", format!("\u{feff}{}", annotations()));
    assert!(Dataset::open_with(root.path(), None, &strict()).is_ok());
}

#[test]
fn pictures_that_are_nowhere_are_an_error_that_says_where_was_looked() {
    let root = tempfile::tempdir().unwrap();
    put(&root, "instances_train.json", annotations().to_string());
    let error = Dataset::open(root.path(), Some("train")).unwrap_err().to_string();
    assert!(error.contains("b.png") && error.contains("images"), "{error}");
}

#[test]
fn large_files_are_read_in_linear_time() {
    let (images, objects) = (20_000, 200_000);
    let mut text = String::from(r#"{"categories":[{"id":1,"name":"a"}],"images":["#);
    let list: Vec<_> = (0..images).map(|i| format!(r#"{{"id":{i},"file_name":"a.png","width":100,"height":80}}"#)).collect();
    text += &list.join(",");
    text += r#"],"annotations":["#;
    // Every other one is wrong.
    let list: Vec<_> = (0..objects)
        .map(|i| format!(r#"{{"id":{},"image_id":{},"category_id":1,"bbox":[1,2,3,{}]}}"#, i + 1, i % images, i as i64 % 2 * 2 - 1))
        .collect();
    text += &list.join(",");
    text += "]}";
    let root = coco(&annotations());
    put(&root, "annotations/instances_val2017.json", text);
    let start = std::time::Instant::now();
    let set = Dataset::open(root.path(), None).unwrap();
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
    assert_eq!((set.images.len(), set.report.count(Kind::BadBox), set.report.issues.len()), (images, objects / 2, Report::KEPT));
}

fn xml(objects: &str) -> String {
    format!(
        "<annotation>\n<folder>VOC2007</folder><filename>000005.jpg</filename><size><width>100</width><height>80</height><depth>3</depth></size>{objects}</annotation>\n"
    )
}

fn object(name: &str, [x0, y0, x1, y1]: [&str; 4], difficult: &str) -> String {
    format!(
        "<object><name>{name}</name><difficult>{difficult}</difficult>\
         <bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
    )
}

/// A VOC folder with the images `1`, `2` in train and `3` in val, one object each.
fn voc_folder(names: [&str; 3]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (i, name) in names.into_iter().enumerate() {
        put(&root, &format!("Annotations/{}.xml", i + 1), xml(&object(name, ["11", "21", "30", "40"], if i == 1 { "1" } else { "0" })));
        picture(&root, &format!("JPEGImages/{}.jpg", i + 1), 100, 80);
    }
    put(&root, "ImageSets/Main/train.txt", "1\n2  -1\n\n");
    put(&root, "ImageSets/Main/val.txt", "3\r\n");
    root
}

#[test]
fn a_voc_folder_is_read_as_downloaded() {
    let root = voc_folder(["dog", "tvmonitor", "aeroplane"]);
    let set = Dataset::open_with(root.path(), Some("train"), &strict()).unwrap();
    assert_eq!(set.categories.names(), voc::CLASSES);
    assert_eq!(
        set.images.iter().map(|i| (i.id, i.objects[0].label, i.objects[0].difficult)).collect::<Vec<_>>(),
        [(1, 11, false), (2, 19, true)]
    );
    // VOC counts pixels from 1 and includes both ends.
    let dog = set.images[0].objects[0];
    assert_eq!((dog.bbox, dog.original, dog.area), ([10.0, 20.0, 30.0, 40.0], [10.0, 20.0, 20.0, 20.0], 400.0));
    let val = Dataset::open(root.path(), Some("val")).unwrap();
    assert_eq!((val.images.len(), val.images[0].objects[0].label), (1, 0));
    assert!(Dataset::open(root.path(), None).unwrap_err().to_string().contains("train, val"));
    assert!(Dataset::open(root.path(), Some("test")).unwrap_err().to_string().contains("train, val"));
}

#[test]
fn other_classes_have_the_same_labels_in_every_split() {
    let root = voc_folder(["WBC", "RBC", "Platelets"]);
    for split in ["train", "val"] {
        let set = Dataset::open(root.path(), Some(split)).unwrap();
        assert_eq!(set.categories.names(), ["Platelets", "RBC", "WBC"], "{split}");
    }
    let known = Options { strictness: Strictness::Skip, categories: Some(Categories::from_names(["WBC"]).unwrap()) };
    let set = Dataset::open_with(root.path(), Some("train"), &known).unwrap();
    assert_eq!((set.images[0].objects.len(), set.images[1].objects.len(), set.report.count(Kind::UnknownCategory)), (1, 0, 1));
}

#[test]
fn every_voc_mistake_is_named_counted_and_skipped_or_fatal() {
    let good = ["11", "21", "30", "40"];
    let cases: Vec<(Kind, &str, String)> = vec![
        (Kind::Malformed, "image 2: expected a VOC annotation", xml("<object>")),
        (Kind::Malformed, "image 2: expected a VOC annotation", "<html></html>".into()),
        (Kind::Malformed, "image 2: expected a VOC annotation", String::new()),
        (Kind::Malformed, "image 2: expected a VOC annotation", "{}".into()),
        (Kind::Malformed, "object 1: it has no <name>", xml(&object(" ", good, "0"))),
        (Kind::BadBox, "object 1: it has no <bndbox>", xml("<object><name>dog</name></object>")),
        (Kind::BadBox, "object 1: expected numbers", xml(&object("dog", ["1", "x", "3", "4"], "0"))),
        (Kind::BadBox, "object 1: expected numbers", xml(&object("dog", ["1", "nan", "3", "4"], "0"))),
        (Kind::BadBox, "object 1: expected numbers", xml(&object("dog", ["1", "2", "inf", "4"], "0"))),
        (Kind::BadBox, "object 1: expected numbers", xml(&object("dog", ["", "2", "3", "4"], "0"))),
        (Kind::BadBox, "object 1: expected xmin <= xmax", xml(&object("dog", ["30", "2", "3", "4"], "0"))),
        (Kind::BadBox, "object 1: expected bbox", xml(&object("dog", ["1", "2", "1e300", "4"], "0"))),
        (Kind::OutsideBox, "leaves", xml(&object("dog", ["1", "2", "300", "4"], "0"))),
    ];
    for (kind, named, text) in cases {
        let root = voc_folder(["dog", "cat", "cow"]);
        put(&root, "Annotations/2.xml", &text);
        let set = Dataset::open(root.path(), Some("train")).unwrap();
        assert_eq!((set.report.count(kind), set.report.total()), (1, 1), "{text}: {:?}", set.report);
        let issue = set.report.issues[0].to_string();
        assert!(issue.contains(named) && issue.contains("2.xml"), "{text}: {issue}");
        assert!(Dataset::open_with(root.path(), Some("train"), &strict()).is_err(), "{text}");
    }
}

#[test]
fn missing_voc_files_are_named() {
    let root = voc_folder(["dog", "cat", "cow"]);
    put(&root, "ImageSets/Main/train.txt", "1\n4\n2\n1\n");
    fs::remove_file(root.path().join("JPEGImages/2.jpg")).unwrap();
    let set = Dataset::open(root.path(), Some("train")).unwrap();
    assert_eq!((set.images.len(), set.report.count(Kind::MissingFile), set.report.count(Kind::DuplicateId)), (1, 2, 1));
    let text: String = set.report.issues.iter().map(|i| i.to_string() + "\n").collect();
    for part in ["image 4: the annotation file", "image 2: there is no picture", "line 4: image 1 is listed twice"] {
        assert!(text.contains(part), "{text}");
    }
    put(&root, "ImageSets/Main/val.txt", "");
    assert!(Dataset::open(root.path(), Some("val")).unwrap_err().to_string().contains("no image is left"));
}

#[test]
fn voc_pictures_may_have_other_names_and_sizes_may_be_missing() {
    let root = voc_folder(["dog", "cat", "cow"]);
    put(&root, "Annotations/2.xml", xml(&object("cat", ["1", "1", "5", "5"], "0")).replace("<width>100</width>", "<width>0</width>"));
    fs::remove_file(root.path().join("JPEGImages/2.jpg")).unwrap();
    picture(&root, "JPEGImages/000005.jpg", 64, 48);
    let set = Dataset::open_with(root.path(), Some("train"), &strict()).unwrap();
    assert_eq!((set.images[1].width, set.images[1].height), (64, 48));
    assert!(set.images[1].path.ends_with("000005.jpg"));
}

/// A copy with one byte changed, or cut short.
fn damaged(good: &str, at: usize, byte: u8, cut: bool) -> Vec<u8> {
    let mut bytes = good.as_bytes().to_vec();
    let at = at % bytes.len();
    if cut {
        bytes.truncate(at)
    } else {
        bytes[at] = byte
    }
    bytes
}

#[test]
fn damaged_files_never_panic() {
    let (coco, voc) = (coco(&annotations()), voc_folder(["dog", "cat", "cow"]));
    let (json, xml) = (annotations().to_string(), xml(&object("dog", ["1", "2", "3", "4"], "0")));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 500, ..ProptestConfig::default() });
    let damage = (any::<usize>(), any::<u8>(), proptest::bool::weighted(0.2));
    let result = runner.run(&damage, |(at, byte, cut)| {
        put(&coco, "annotations/instances_val2017.json", damaged(&json, at, byte, cut));
        put(&voc, "Annotations/1.xml", damaged(&xml, at, byte, cut));
        // An error or a report, whatever fits; opening must return.
        let _ = Dataset::open(coco.path(), None);
        let _ = Dataset::open(voc.path(), Some("train"));
        Ok(())
    });
    result.unwrap();
}
