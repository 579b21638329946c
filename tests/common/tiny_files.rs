//! The tiny training run as files, for the command.

use super::tiny;
use qdetr::data::Dataset;
use std::fs;
use std::path::Path;

/// Writes the pictures, `train.json` with their annotations, and `config.json`: two steps an epoch, evaluated behind every epoch.
pub(crate) fn write(folder: &Path, epochs: u64) {
    let mut job = tiny::job(folder, epochs);
    (job.config.batch, job.config.evaluate_every) = (1, 1);
    let write = |name: &str, json: String| fs::write(folder.join(name), json).expect("a writable folder");
    write("config.json", serde_json::to_string(&job.config).expect("JSON"));
    write("train.json", coco(&job.train).to_string());
}

/// A data set as COCO writes it.
fn coco(set: &Dataset) -> serde_json::Value {
    let images = set.images.iter().map(|i| {
        let name = i.path.file_name().expect("a name").to_string_lossy();
        serde_json::json!({ "id": i.id, "file_name": name, "width": i.width, "height": i.height })
    });
    let objects = set.images.iter().flat_map(|i| i.objects.iter().map(move |o| (i.id, o)));
    let annotations = objects.map(|(image, o)| {
        serde_json::json!({ "id": o.id, "image_id": image, "category_id": o.label + 1, "bbox": o.original, "area": o.area, "iscrowd": 0 })
    });
    let categories = set.categories.names().iter().enumerate().map(|(i, name)| serde_json::json!({ "id": i + 1, "name": name }));
    serde_json::json!({
        "images": images.collect::<Vec<_>>(), "annotations": annotations.collect::<Vec<_>>(), "categories": categories.collect::<Vec<_>>()
    })
}
