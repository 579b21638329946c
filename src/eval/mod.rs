//! How good detections are: COCO's and PASCAL VOC's average precision.
//!
//! [`run`] and [`run_voc`] work on files alone and need no model; [`coco::evaluate`] and [`voc::evaluate`] take
//! what is in memory. All numbers are `f64` and equal those of the reference implementations.

pub mod coco;
mod detections;
mod ground_truth;
mod summary;
pub mod voc;

pub use detections::{Detection, read as read_detections, write as write_detections};
pub use ground_truth::GroundTruth;
pub use summary::{ClassAp, Summary, VocClassAp, VocSummary};

use crate::data::{Report, Strictness};
use crate::{Error, Result};
use rayon::prelude::*;
use std::path::Path;

/// COCO's evaluation of a result file against an annotation file.
///
/// # Errors
/// As [`GroundTruth::read`] and [`read_detections`]; [`Error::Format`] when the detections belong to other images.
pub fn run(annotations: &Path, detections: &Path, strictness: Strictness) -> Result<(Summary, Report)> {
    let (truth, found, report) = read(annotations, detections, strictness)?;
    Ok((coco::evaluate(&truth, &found)?, report))
}

/// PASCAL VOC's evaluation of a result file against an annotation file.
///
/// # Errors
/// As [`run`].
pub fn run_voc(annotations: &Path, detections: &Path, strictness: Strictness, rule: voc::Rule) -> Result<(VocSummary, Report)> {
    let (truth, found, report) = read(annotations, detections, strictness)?;
    Ok((voc::evaluate(&truth, &found, rule)?, report))
}

fn read(annotations: &Path, path: &Path, strictness: Strictness) -> Result<(GroundTruth, Vec<Detection>, Report)> {
    let (truth, report) = GroundTruth::read(annotations, strictness)?;
    let found = read_detections(path)?;
    detections::check(&truth, &found).map_err(|what| Error::format(path, what))?;
    Ok((truth, found, report))
}

/// Things by class and image, sorted by both; the order within stays.
fn group<T: Send>(items: impl Iterator<Item = (usize, i64, T)>) -> Vec<(usize, i64, T)> {
    let mut items: Vec<_> = items.collect();
    items.par_sort_by_key(|&(class, image, _)| (class, image));
    items
}

/// The part of one class.
fn of_class<T>(items: &[(usize, i64, T)], class: usize) -> &[(usize, i64, T)] {
    let start = items.partition_point(|i| i.0 < class);
    &items[start..start + items[start..].partition_point(|i| i.0 == class)]
}
