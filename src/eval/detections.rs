//! Detections as COCO's result files have them: a JSON list of `{image_id, category_id, bbox, score}`.

use super::GroundTruth;
use crate::data::coco::{Id, finite_box, nan_to_null, parse_each};
use crate::{Error, Result, files};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::cmp::Ordering;
use std::path::Path;

/// The most that is read of a result file.
const MAX_BYTES: u64 = 4 << 30;

/// One found object.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Detection {
    /// The image, by the id of the ground truth.
    pub image_id: i64,
    /// The class, by the id of the ground truth (not the training label).
    pub category_id: i64,
    /// `xywh` in pixels of the original image.
    pub bbox: [f64; 4],
    /// Confidence; only its order counts.
    pub score: f64,
}

#[derive(Deserialize)]
struct Record {
    image_id: Id,
    category_id: Id,
    bbox: Vec<Option<f64>>,
    score: Option<f64>,
}

impl TryFrom<Record> for Detection {
    type Error = String;

    fn try_from(record: Record) -> Result<Self, String> {
        let score = record.score.filter(|s| s.is_finite()).ok_or("its score is missing or no number")?;
        Ok(Self { image_id: record.image_id.0, category_id: record.category_id.0, bbox: finite_box(&record.bbox)?, score })
    }
}

/// Reads a COCO result file; other fields of the records, such as masks, are passed over.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] when it is no list of results, with the position of the first wrong record.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<Detection>> {
    let path = path.as_ref();
    let mut text = files::read_text(path, MAX_BYTES)?;
    if serde_json::from_str::<Vec<&RawValue>>(&text).is_err() && (text.contains("NaN") || text.contains("Infinity")) {
        text = nan_to_null(&text);
    }
    let records: Vec<&RawValue> = serde_json::from_str(&text)
        .map_err(|e| Error::format(path, format!("expected a COCO result file (a JSON list of detections), found: {e}")))?;
    let parsed = parse_each::<Record>(&records).into_iter().enumerate();
    parsed
        .map(|(i, record)| record.and_then(Detection::try_from).map_err(|what| Error::format(path, format!("detection {i}: {what}"))))
        .collect()
}

/// Writes a COCO result file; it appears only when it is complete.
///
/// # Errors
/// [`Error::Io`]; [`Error::NotFinite`] for a box or score that JSON cannot hold.
pub fn write(path: impl AsRef<Path>, detections: &[Detection]) -> Result<()> {
    let path = path.as_ref();
    if let Some(i) = detections.iter().position(|d| !d.score.is_finite() || d.bbox.iter().any(|v| !v.is_finite())) {
        return Err(Error::NotFinite(format!("{}: detection {i} is not finite: {:?}", path.display(), detections[i])));
    }
    files::write_whole(path, |file| Ok(serde_json::to_writer(file, detections)?))
}

/// Passes when every detection can be evaluated: a known image, finite numbers. Else says what is wrong with the first that
/// cannot; pycocotools, too, refuses results of another set of images. Boxes of negative size are taken, as it takes
/// them: they overlap nothing.
pub(super) fn check(truth: &GroundTruth, detections: &[Detection]) -> Result<(), String> {
    for (i, d) in detections.iter().enumerate() {
        if truth.images().binary_search(&d.image_id).is_err() {
            let what = "is not in the ground truth: these detections belong to another set of images";
            return Err(format!("detection {i}: its image {} {what}", d.image_id));
        }
        if !d.score.is_finite() {
            return Err(format!("detection {i}: expected a finite score, found {}", d.score));
        }
        finite_box(&d.bbox.map(Some)).map_err(|what| format!("detection {i}: {what}"))?;
    }
    Ok(())
}

/// Higher scores first. Scores are finite, and the two zeros are equal, as numpy has it.
pub(super) fn falling(a: f64, b: f64) -> Ordering {
    b.partial_cmp(&a).unwrap_or(Ordering::Equal)
}
