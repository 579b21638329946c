//! COCO's average precision and recall of boxes, the numbers of pycocotools' `COCOeval` to the last digits.
//!
//! Per class, image, area range and IoU threshold, detections in falling order of score each take the free object that they
//! overlap most. Crowds and objects outside the area range are *ignored*: what is matched with them counts neither as
//! right nor as wrong, and a crowd can be matched any number of times, with intersection over the detection's own area as
//! overlap. Precision is made monotone and read at 101 recalls.
//!
//! What one would not guess, and what is kept for the sake of equal numbers: the limit of 1, 10 or 100 detections holds per
//! image *and class*; both ends of an area range belong to it; a detection matched with the annotation of id 0 counts as
//! unmatched; an average over no class at all is −1.

use super::detections::{self, Detection, falling};
use super::summary::{ClassAp, Summary};
use super::{GroundTruth, group, of_class};
use crate::data::coco::Annotation;
use crate::{Error, Result};
use rayon::prelude::*;

/// IoU thresholds, 0.5 to 0.95.
const THRESHOLDS: usize = 10;
/// Recalls at which the precision is read, 0 to 1.
const RECALLS: usize = 101;
/// Areas in square pixels, both ends included: all, small, medium, large.
const AREAS: [(f64, f64); 4] = [(0.0, 1e10), (0.0, 1024.0), (1024.0, 9216.0), (9216.0, 1e10)];
/// Detections an image and class.
const MAX_DETECTIONS: [usize; 3] = [1, 10, 100];

/// `numpy.linspace(0.5, 0.95, 10)`, bit by bit: a detection may lie exactly on a threshold.
fn iou_thresholds() -> [f64; THRESHOLDS] {
    let step = (0.95 - 0.5) / (THRESHOLDS - 1) as f64;
    std::array::from_fn(|i| if i + 1 == THRESHOLDS { 0.95 } else { i as f64 * step + 0.5 })
}

/// Evaluates detections; classes in parallel.
///
/// # Errors
/// [`Error::Format`] for a detection of an unknown image or with a number that is not finite. Detections of unknown
/// classes are passed over, as pycocotools does.
pub fn evaluate(truth: &GroundTruth, detections: &[Detection]) -> Result<Summary> {
    detections::check(truth, detections).map_err(|what| Error::format("detections", what))?;
    let class_of = |id: i64| truth.categories().binary_search_by_key(&id, |c| c.0);
    let objects = group(truth.annotations().iter().filter_map(|a| Some((class_of(a.category_id).ok()?, a.image_id, a))));
    let found = group(detections.iter().filter_map(|d| Some((class_of(d.category_id).ok()?, d.image_id, d))));
    let classes: Vec<_> = (0..truth.categories().len())
        .into_par_iter()
        .map(|class| Class::new(of_class(&objects, class), of_class(&found, class)).results())
        .collect();
    Ok(summarize(truth, &classes))
}

/// What became of one detection in one area range: a bit a threshold.
#[derive(Clone, Copy, Default)]
struct Fate {
    matched: u16,
    ignored: u16,
}

/// All images of one class, matched.
struct Class {
    /// Scores, images in the order of their ids, detections of an image by falling score.
    scores: Vec<f64>,
    /// The position of a detection in its image.
    ranks: Vec<usize>,
    /// By area range, then detection.
    fates: [Vec<Fate>; AREAS.len()],
    /// Objects that are not ignored, by area range.
    objects: [usize; AREAS.len()],
}

/// Averages of one class; `None` where there is no object to find.
struct ClassResults {
    /// By area range, with 100 detections: average precision at each threshold.
    precision: [Option<[f64; THRESHOLDS]>; AREAS.len()],
    /// By area range, with 100 detections: recall, averaged over thresholds.
    recall: [Option<f64>; AREAS.len()],
    /// Over all areas, by the number of detections.
    recall_at: [Option<f64>; MAX_DETECTIONS.len()],
}

impl Class {
    fn new(objects: &[(usize, i64, &Annotation)], found: &[(usize, i64, &Detection)]) -> Self {
        let mut class =
            Self { scores: Vec::with_capacity(found.len()), ranks: Vec::new(), fates: Default::default(), objects: [0; AREAS.len()] };
        let (mut objects, mut found) = (objects, found);
        while let Some(image) = [objects.first().map(|o| o.1), found.first().map(|d| d.1)].into_iter().flatten().min() {
            let (here, rest) = objects.split_at(objects.partition_point(|o| o.1 == image));
            let (found_here, found_rest) = found.split_at(found.partition_point(|d| d.1 == image));
            (objects, found) = (rest, found_rest);
            class.add_image(here.iter().map(|o| o.2).collect(), found_here.iter().map(|d| d.2).collect());
        }
        class
    }

    fn add_image(&mut self, objects: Vec<&Annotation>, mut found: Vec<&Detection>) {
        found.sort_by(|a, b| falling(a.score, b.score));
        found.truncate(MAX_DETECTIONS[2]);
        let overlaps: Vec<f64> = found.iter().flat_map(|d| objects.iter().map(|o| overlap(&d.bbox, o))).collect();
        for (a, &range) in AREAS.iter().enumerate() {
            let outside = |area: f64| area < range.0 || area > range.1;
            let ignored: Vec<_> = objects.iter().map(|o| o.crowd || outside(o.area)).collect();
            self.objects[a] += ignored.iter().filter(|i| !**i).count();
            let mut fates = match_image(&objects, &ignored, &overlaps, found.len());
            for (fate, d) in fates.iter_mut().zip(&found) {
                if outside(d.bbox[2] * d.bbox[3]) {
                    fate.ignored |= !fate.matched;
                }
            }
            self.fates[a].extend(fates);
        }
        self.ranks.extend(0..found.len());
        self.scores.extend(found.iter().map(|d| d.score));
    }

    fn results(&self) -> ClassResults {
        // Stable, and over images in the order of their ids, as numpy's merge sort leaves ties.
        let mut order: Vec<usize> = (0..self.scores.len()).collect();
        order.sort_by(|&a, &b| falling(self.scores[a], self.scores[b]));
        let curves = |area: usize, most: usize| {
            let order: Vec<usize> = order.iter().copied().filter(|&i| self.ranks[i] < most).collect();
            (self.objects[area] > 0).then(|| std::array::from_fn(|t| self.curve(area, t, &order)))
        };
        let mean_recall = |c: &[(f64, f64); THRESHOLDS]| c.iter().map(|c| c.1).sum::<f64>() / THRESHOLDS as f64;
        let by_area: [Option<[(f64, f64); THRESHOLDS]>; AREAS.len()] = std::array::from_fn(|a| curves(a, MAX_DETECTIONS[2]));
        ClassResults {
            precision: by_area.map(|c| c.map(|c| c.map(|c| c.0))),
            recall: by_area.map(|c| c.as_ref().map(mean_recall)),
            recall_at: MAX_DETECTIONS.map(|most| curves(0, most).as_ref().map(mean_recall)),
        }
    }

    /// Average precision and final recall at one threshold.
    fn curve(&self, area: usize, threshold: usize, order: &[usize]) -> (f64, f64) {
        let objects = self.objects[area] as f64;
        let (mut right, mut wrong) = (0.0, 0.0);
        let (mut recall, mut precision) = (Vec::with_capacity(order.len()), Vec::with_capacity(order.len()));
        for &i in order {
            let Fate { matched, ignored } = self.fates[area][i];
            if ignored >> threshold & 1 == 0 {
                if matched >> threshold & 1 == 1 { right += 1.0 } else { wrong += 1.0 }
            }
            recall.push(right / objects);
            precision.push(right / (wrong + right + f64::EPSILON));
        }
        for i in (1..precision.len()).rev() {
            precision[i - 1] = f64::max(precision[i - 1], precision[i]);
        }
        // numpy.linspace(0, 1, 101) is i · 0.01, which is not i / 100.
        let at = |i: usize| if i + 1 == RECALLS { 1.0 } else { i as f64 * 0.01 };
        let read = (0..RECALLS).map(|i| precision.get(recall.partition_point(|&r| r < at(i))).copied().unwrap_or(0.0));
        (read.sum::<f64>() / RECALLS as f64, recall.last().copied().unwrap_or(0.0))
    }
}

/// Intersection over union, or over the detection's area where the object is a crowd.
fn overlap(found: &[f64; 4], object: &Annotation) -> f64 {
    let (d, o) = (found, &object.bbox);
    let width = f64::min(d[2] + d[0], o[2] + o[0]) - f64::max(d[0], o[0]);
    let height = f64::min(d[3] + d[1], o[3] + o[1]) - f64::max(d[1], o[1]);
    if width <= 0.0 || height <= 0.0 {
        return 0.0;
    }
    let intersection = width * height;
    let area = d[2] * d[3];
    intersection / if object.crowd { area } else { area + o[2] * o[3] - intersection }
}

/// Matches the detections of an image, by falling score, with its objects. `overlaps` is `[detections, objects]`.
fn match_image(objects: &[&Annotation], ignored: &[bool], overlaps: &[f64], found: usize) -> Vec<Fate> {
    let mut order: Vec<usize> = (0..objects.len()).collect();
    order.sort_by_key(|&o| ignored[o]);
    let mut fates = vec![Fate::default(); found];
    for (t, threshold) in iou_thresholds().into_iter().enumerate() {
        let mut taken = vec![false; objects.len()];
        for (d, fate) in fates.iter_mut().enumerate() {
            let (mut best, mut most) = (None, f64::min(threshold, 1.0 - 1e-10));
            for &o in &order {
                if taken[o] && !objects[o].crowd {
                    continue;
                }
                if ignored[o] && best.is_some_and(|b: usize| !ignored[b]) {
                    break;
                }
                let iou = overlaps[d * objects.len() + o];
                if iou < most {
                    continue;
                }
                // Of equal overlaps the last wins.
                (best, most) = (Some(o), iou);
            }
            if let Some(o) = best {
                taken[o] = true;
                fate.ignored |= u16::from(ignored[o]) << t;
                fate.matched |= u16::from(objects[o].id != 0) << t;
            }
        }
    }
    fates
}

fn summarize(truth: &GroundTruth, classes: &[ClassResults]) -> Summary {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let over_classes = |value: &dyn Fn(&ClassResults) -> Option<f64>| {
        let values: Vec<_> = classes.iter().filter_map(value).collect();
        if values.is_empty() { -1.0 } else { mean(&values) }
    };
    let precision = |area: usize| over_classes(&|c| c.precision[area].as_ref().map(|p| mean(p)));
    let precision_at = |t: usize| over_classes(&|c| c.precision[0].map(|p| p[t]));
    let recall = |area: usize| over_classes(&|c| c.recall[area]);
    let recall_at = |m: usize| over_classes(&|c| c.recall_at[m]);
    let mut per_class: Vec<_> = truth
        .categories()
        .iter()
        .zip(classes)
        .map(|((id, name), c)| ClassAp {
            id: *id,
            name: name.clone(),
            objects: 0,
            ap: c.precision[0].as_ref().map(|p| mean(p)),
            ap50: c.precision[0].map(|p| p[0]),
        })
        .collect();
    for object in truth.annotations() {
        if let Ok(class) = truth.categories().binary_search_by_key(&object.category_id, |c| c.0) {
            per_class[class].objects += usize::from(!object.crowd);
        }
    }
    Summary {
        ap: precision(0),
        ap50: precision_at(0),
        ap75: precision_at(5),
        ap_small: precision(1),
        ap_medium: precision(2),
        ap_large: precision(3),
        ar1: recall_at(0),
        ar10: recall_at(1),
        ar100: recall_at(2),
        ar_small: recall(1),
        ar_medium: recall(2),
        ar_large: recall(3),
        per_class,
    }
}
