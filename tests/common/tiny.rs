//! A training run that takes seconds: two small pictures, a small model.

use qdetr::data::{Categories, Dataset, ImageRecord, Object, Report, Strictness};
use qdetr::models::config::{Backbone, Block, ResNet};
use qdetr::models::{ModelConfig, detector};
use qdetr::nn::initialize;
use qdetr::train::{Job, TrainConfig};
use std::path::Path;

/// Two pictures with coloured rectangles on grey, annotated.
pub(crate) fn rectangles(folder: &Path) -> Dataset {
    let colours = [image::Rgb([220, 30, 30]), image::Rgb([30, 60, 220])];
    let pictures: [&[([u32; 4], usize)]; 2] = [&[([4, 6, 30, 40], 0), ([36, 10, 60, 28], 1)], &[([10, 30, 50, 58], 1)]];
    let record = |(i, objects): (usize, &&[([u32; 4], usize)])| {
        let mut picture = image::RgbImage::from_pixel(64, 64, image::Rgb([120, 120, 120]));
        for &([x0, y0, x1, y1], label) in *objects {
            (x0..x1).for_each(|x| (y0..y1).for_each(|y| picture.put_pixel(x, y, colours[label])));
        }
        let path = folder.join(format!("{i}.png"));
        picture.save(&path).expect("a writable folder");
        let object = |(id, &(bbox, label)): (usize, &([u32; 4], usize))| {
            let [x0, y0, x1, y1] = bbox.map(f64::from);
            let (original, area) = ([x0, y0, x1 - x0, y1 - y0], (x1 - x0) * (y1 - y0));
            let id = (10 * i + id + 1) as i64;
            Object { bbox: bbox.map(|v| v as f32), label, id, original, area, crowd: false, difficult: false }
        };
        let objects = objects.iter().enumerate().map(object).collect();
        ImageRecord { id: i as i64 + 1, path, width: 64, height: 64, objects }
    };
    let categories = Categories::from_names(["red", "blue"]).expect("two classes");
    Dataset { images: pictures.iter().enumerate().map(record).collect(), categories, report: Report::default() }
}

/// A job that learns the rectangles by heart.
pub(crate) fn job(folder: &Path, epochs: u64) -> Job {
    let backbone = ResNet { block: Block::Basic, depths: [1; 4], stem: 8, widths: [8, 16, 24, 32], dilated_c5: true };
    let model = ModelConfig {
        backbone: Backbone::Resnet(backbone),
        d_model: 32,
        heads: 4,
        encoder_layers: 1,
        decoder_layers: 2,
        ffn: 64,
        queries: 6,
        classes: 2,
        ..ModelConfig::detr("resnet18").expect("a known backbone")
    };
    let train = rectangles(folder);
    let about = serde_json::json!({
        "model": model, "sizes": [[64, 64]], "batch": 2, "epochs": epochs, "evaluate_every": 0, "lr": 2e-3, "lr_backbone": 1e-3, "freeze": [], "seed": 1
    });
    Job {
        config: TrainConfig::parse(&about.to_string()).expect("a configuration"),
        validation: Some(train.clone()),
        train,
        start: initialize(&detector::specs(&model).expect("a good configuration"), 1),
        teacher: None,
        out: folder.join("out"),
        max_seconds: None,
        resume: false,
        plain: true,
        threads: 2,
        strictness: Strictness::Fatal,
    }
}
