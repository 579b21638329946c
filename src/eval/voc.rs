//! PASCAL VOC's average precision at IoU 0.5, as the devkit's `VOCevaldet` computes it.
//!
//! Per class, all detections in falling order of score are each compared with the object of their image that they overlap
//! most, taken or not: at least half overlapped, the object is found the first time and the detection wrong after that;
//! a difficult object makes the detection neither. Difficult objects are not counted as objects to find.
//!
//! The devkit adds 1 to every width because its boxes include both end pixels; with the continuous boxes of this crate
//! (see [`crate::data::voc`]) the overlaps are the same without.

use super::detections::{self, Detection, falling};
use super::summary::{VocClassAp, VocSummary};
use super::{GroundTruth, group, of_class};
use crate::boxes::{iou, xywh_to_xyxy};
use crate::data::coco::Annotation;
use crate::{Error, Result};
use rayon::prelude::*;
use serde::Serialize;
use std::fmt;

/// The overlap from which an object is found.
const MIN_OVERLAP: f64 = 0.5;

/// How the area under the curve of precision over recall is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// VOC 2007: the mean of the best precisions at the recalls 0, 0.1, …, 1 and beyond.
    Voc07,
    /// VOC 2010 and later: the area under the monotone curve.
    Voc10,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Voc07 => "VOC 2007, 11 points",
            Self::Voc10 => "VOC 2010 and later, area under the curve",
        })
    }
}

/// Evaluates detections; classes in parallel.
///
/// # Errors
/// [`Error::Format`] for a detection of an unknown image or with a number that is not finite. Detections of unknown
/// classes are passed over.
pub fn evaluate(truth: &GroundTruth, detections: &[Detection], rule: Rule) -> Result<VocSummary> {
    detections::check(truth, detections).map_err(|what| Error::format("detections", what))?;
    let class_of = |id: i64| truth.categories().binary_search_by_key(&id, |c| c.0);
    let objects = group(truth.annotations().iter().filter_map(|a| Some((class_of(a.category_id).ok()?, a.image_id, a))));
    // By score within a class: images are mixed.
    let mut found: Vec<_> = detections.iter().filter_map(|d| Some((class_of(d.category_id).ok()?, d))).collect();
    found.par_sort_by(|a, b| a.0.cmp(&b.0).then_with(|| falling(a.1.score, b.1.score)));
    let per_class: Vec<_> = truth
        .categories()
        .par_iter()
        .enumerate()
        .map(|(class, (id, name))| {
            let objects = of_class(&objects, class);
            let start = found.partition_point(|d| d.0 < class);
            let end = found.partition_point(|d| d.0 <= class);
            let count = objects.iter().filter(|o| !o.2.difficult).count();
            let ap = (count > 0).then(|| average_precision(&outcomes(objects, &found[start..end]), count, rule));
            VocClassAp { id: *id, name: name.clone(), objects: count, ap }
        })
        .collect();
    let values: Vec<f64> = per_class.iter().filter_map(|c| c.ap).collect();
    let map = if values.is_empty() { -1.0 } else { values.iter().sum::<f64>() / values.len() as f64 };
    Ok(VocSummary { metric: rule, map, per_class })
}

/// For each detection: right, wrong, or neither.
fn outcomes(objects: &[(usize, i64, &Annotation)], found: &[(usize, &Detection)]) -> Vec<Option<bool>> {
    let mut taken = vec![false; objects.len()];
    let mut judge = |d: &Detection| {
        let start = objects.partition_point(|o| o.1 < d.image_id);
        let end = objects.partition_point(|o| o.1 <= d.image_id);
        let (mut best, mut most) = (None, 0.0);
        for (o, object) in objects.iter().enumerate().take(end).skip(start) {
            let overlap = iou(xywh_to_xyxy(d.bbox), xywh_to_xyxy(object.2.bbox));
            // Of equal overlaps the first wins.
            if overlap > most {
                (best, most) = (Some(o), overlap);
            }
        }
        match best.filter(|_| most >= MIN_OVERLAP) {
            None => Some(false),
            Some(o) if objects[o].2.difficult => None,
            Some(o) => Some(!std::mem::replace(&mut taken[o], true)),
        }
    };
    found.iter().map(|d| judge(d.1)).collect()
}

/// The area under precision over recall.
fn average_precision(outcomes: &[Option<bool>], objects: usize, rule: Rule) -> f64 {
    let (mut right, mut wrong) = (0.0, 0.0);
    let mut curve = Vec::with_capacity(outcomes.len());
    for outcome in outcomes {
        match outcome {
            Some(true) => right += 1.0,
            Some(false) => wrong += 1.0,
            None => {}
        }
        // Before the first that is right or wrong there is no precision yet; it must not become the best one.
        let judged: f64 = right + wrong;
        curve.push((right / objects as f64, if judged > 0.0 { right / judged } else { 0.0 }));
    }
    // From behind, so that each recall has the best precision at it or beyond.
    for i in (1..curve.len()).rev() {
        curve[i - 1].1 = f64::max(curve[i - 1].1, curve[i].1);
    }
    let at = |recall: f64| curve.get(curve.partition_point(|c| c.0 < recall)).map_or(0.0, |c| c.1);
    match rule {
        Rule::Voc07 => (0..=10).map(|i| at(f64::from(i) * 0.1)).sum::<f64>() / 11.0,
        Rule::Voc10 => {
            let before = std::iter::once(0.0).chain(curve.iter().map(|c| c.0));
            curve.iter().zip(before).map(|(&(recall, precision), before)| (recall - before) * precision).sum()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_rules_have_the_values_worked_out_by_hand() {
        // Two objects; right, wrong, right: precision 1 at recall 0.5, 2/3 at recall 1.
        let outcomes = [Some(true), Some(false), Some(true)];
        let ap = |rule| average_precision(&outcomes, 2, rule);
        assert!((ap(Rule::Voc10) - (0.5 + 0.5 * 2.0 / 3.0)).abs() < 1e-15);
        assert!((ap(Rule::Voc07) - (6.0 + 5.0 * 2.0 / 3.0) / 11.0).abs() < 1e-15);
    }

    #[test]
    fn what_is_neither_right_nor_wrong_changes_nothing() {
        let with = [None, Some(true), None, Some(false), None];
        let without = [Some(true), Some(false)];
        for rule in [Rule::Voc07, Rule::Voc10] {
            assert_eq!(average_precision(&with, 3, rule), average_precision(&without, 3, rule));
            assert_eq!(average_precision(&[None, None], 3, rule), 0.0);
            assert_eq!(average_precision(&[], 3, rule), 0.0);
        }
    }
}
