//! How good a model is on annotated pictures: COCO's numbers of a detector on a data set.

use super::TrainConfig;
use crate::data::image;
use crate::data::loader::bucket_of;
use crate::data::preprocess::{Batch, Sample};
use crate::data::{Dataset, ImageRecord};
use crate::eval::{self, GroundTruth, Summary};
use crate::gpu::Gpu;
use crate::graph::Values;
use crate::models::{Detection, Detector, ModelConfig, Results};
use crate::nn::Precision;
use crate::{Result, boxes};
use rayon::prelude::*;

/// Evaluates parameters on all pictures of a data set, whose labels are the model's.
///
/// # Errors
/// As reading pictures, and [`Detector::detect`].
pub fn evaluate(gpu: &Gpu, model: &ModelConfig, params: Values, set: &Dataset, config: &TrainConfig) -> Result<Summary> {
    let mut detector = Detector::new(gpu, model.clone(), params, Precision::F32, Results::Answers)?;
    let mut found = Vec::new();
    for records in set.images.chunks(config.batch) {
        let samples: Vec<Sample> =
            records.par_iter().map(|record| Ok(Sample::new(&image::read(&record.path)?, config.resize()))).collect::<Result<_>>()?;
        let batch = Batch::new(&samples, bucket_of(&config.buckets(), &samples))?;
        let detections = detector.detect(&batch, 0.0)?;
        for ((record, sample), detections) in records.iter().zip(&samples).zip(detections) {
            // Boxes are of the picture as it was read; annotations are of its annotated size.
            let scale = [record.width as f32 / sample.original.width as f32, record.height as f32 / sample.original.height as f32];
            found.extend(detections.into_iter().map(|d| result(set, record, d, scale)));
        }
    }
    eval::coco::evaluate(&GroundTruth::of(set), &found)
}

fn result(set: &Dataset, record: &ImageRecord, found: Detection, [x, y]: [f32; 2]) -> eval::Detection {
    let [x0, y0, x1, y1] = found.bbox;
    eval::Detection {
        image_id: record.id,
        category_id: set.categories.ids()[found.label],
        bbox: boxes::xyxy_to_xywh([x0 * x, y0 * y, x1 * x, y1 * y].map(f64::from)),
        score: f64::from(found.score),
    }
}
