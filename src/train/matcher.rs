//! Hungarian matching: which query learns which object.
//!
//! For one image and one decoder layer, with `p` the predictions and `t` the objects, the assignment with the lowest sum of
//!
//! `C[query, object] = w_bbox · |p_box − t_box|₁ + w_class · class cost + w_giou · (−GIoU(p_box, t_box))`
//!
//! L1 on normalized `cxcywh`, GIoU on `xyxy`. Every decoder layer and every group of queries is matched on its own. Costs
//! are `f32`, as the original computes them; the assignment is exact, and between equal sums it is scipy's.

use crate::boxes::{cxcywh_to_xyxy, giou};
use crate::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What a wrong class costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassCost {
    /// DETR: `−softmax(logits)[label]`, no logarithm.
    Softmax,
    /// Deformable DETR and SMCA: the focal loss of a hit less that of a miss. With `s = sigmoid(logits[label])`:
    /// `α (1 − s)^γ · −log(s + 1e-8) − (1 − α) s^γ · −log(1 − s + 1e-8)`.
    Focal {
        /// α, 0.25 in the originals.
        alpha: f32,
        /// γ, 2 in the originals.
        gamma: f32,
    },
}

/// The weights of a matching.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matcher {
    /// How the class is judged.
    pub class_cost: ClassCost,
    /// Weight of the class cost.
    pub class: f32,
    /// Weight of the L1 distance.
    pub bbox: f32,
    /// Weight of the GIoU.
    pub giou: f32,
}

/// The objects of one image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Targets {
    /// Training labels.
    pub labels: Vec<usize>,
    /// Boxes `cxcywh`, normalized by the image size without padding; one a label.
    pub boxes: Vec<[f32; 4]>,
}

/// What one decoder layer predicts for a batch.
#[derive(Clone, Copy, Debug)]
pub struct Predictions<'a> {
    /// `[B, N, K]`, row-major.
    pub logits: &'a [f32],
    /// `[B, N, 4]`, normalized `cxcywh`, row-major.
    pub boxes: &'a [f32],
    /// K: entries of the class head, no-object included where there is one.
    pub classes: usize,
}

/// A query and the object that it learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// Position among the N queries.
    pub query: usize,
    /// Position among the objects of the image.
    pub target: usize,
}

impl Matcher {
    /// DETR's: softmax, weights 1, 5 and 2.
    pub const DETR: Self = Self { class_cost: ClassCost::Softmax, class: 1.0, bbox: 5.0, giou: 2.0 };

    /// SMCA's, and Deformable DETR's: focal, weights 2, 5 and 2.
    pub const SMCA: Self = Self { class_cost: ClassCost::Focal { alpha: 0.25, gamma: 2.0 }, class: 2.0, bbox: 5.0, giou: 2.0 };

    /// Matches all layers and images, in parallel. The queries form `groups` equal groups, one after the other, each matched on
    /// its own: 1 for a plain model. Result: by layer, then image, the pairs by rising query. In each group, every object is
    /// matched once, or every query when there are more objects than queries.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when a prediction is no finite number, with its layer, image and query.
    ///
    /// # Panics
    /// When lengths do not fit: predictions to batch and classes, boxes to labels, labels to classes, queries to groups.
    #[track_caller]
    pub fn match_layers(&self, layers: &[Predictions<'_>], targets: &[Targets], groups: usize) -> Result<Vec<Vec<Vec<Pair>>>> {
        for layer in layers {
            layer.check(targets, groups);
        }
        let tasks: Vec<_> = (0..layers.len()).flat_map(|l| (0..targets.len()).map(move |i| (l, i))).collect();
        let matched: Vec<Result<Vec<Pair>>> = tasks
            .into_par_iter()
            .map(|(l, i)| {
                let image = layers[l].image(i, targets.len());
                let not_finite = |what| Error::NotFinite(format!("matching: layer {l}, image {i}, {what}"));
                image.check_finite().map_err(not_finite)?;
                let mut pairs = Vec::new();
                for group in image.groups(groups) {
                    pairs.extend(self.match_group(&image, &targets[i], group).map_err(not_finite)?);
                }
                pairs.sort_unstable();
                Ok(pairs)
            })
            .collect();
        let mut matched = matched.into_iter();
        layers.iter().map(|_| matched.by_ref().take(targets.len()).collect()).collect()
    }

    fn match_group(&self, image: &Image<'_>, targets: &Targets, queries: Range<usize>) -> Result<Vec<Pair>, String> {
        let cost = self.costs(image, targets, queries.clone());
        // The solver refuses costs that are not finite: boxes so large that their areas overflow.
        let (rows, columns) = lsap::solve(queries.len(), targets.labels.len(), &cost, false)
            .map_err(|_| format!("queries {queries:?}: boxes too large to compare"))?;
        Ok(rows.into_iter().zip(columns).map(|(row, target)| Pair { query: queries.start + row, target }).collect())
    }

    /// `[queries, objects]`, row-major.
    fn costs(&self, image: &Image<'_>, targets: &Targets, queries: Range<usize>) -> Vec<f64> {
        let corners: Vec<_> = targets.boxes.iter().map(|&b| cxcywh_to_xyxy(b)).collect();
        let mut costs = Vec::with_capacity(queries.len() * corners.len());
        let mut class = vec![0.0; image.classes];
        for query in queries {
            self.class_cost.of(image.logits(query), &mut class);
            let bbox = image.bbox(query);
            let corner = cxcywh_to_xyxy(bbox);
            for ((&label, target), &target_corner) in targets.labels.iter().zip(&targets.boxes).zip(&corners) {
                let l1: f32 = bbox.iter().zip(target).map(|(a, b)| (a - b).abs()).sum();
                let cost = self.bbox * l1 + self.class * class[label] - self.giou * giou(corner, target_corner);
                costs.push(f64::from(cost));
            }
        }
        costs
    }
}

impl ClassCost {
    /// The costs of all classes of one query.
    fn of(self, logits: &[f32], costs: &mut [f32]) {
        match self {
            Self::Softmax => {
                let max = logits.iter().copied().fold(f32::MIN, f32::max);
                for (cost, logit) in costs.iter_mut().zip(logits) {
                    *cost = (logit - max).exp();
                }
                let sum: f32 = costs.iter().sum();
                costs.iter_mut().for_each(|c| *c = -*c / sum);
            }
            Self::Focal { alpha, gamma } => {
                for (cost, logit) in costs.iter_mut().zip(logits) {
                    let s = 1.0 / (1.0 + (-logit).exp());
                    let hit = alpha * (1.0 - s).powf(gamma) * -(s + 1e-8).ln();
                    let miss = (1.0 - alpha) * s.powf(gamma) * -(1.0 - s + 1e-8).ln();
                    *cost = hit - miss;
                }
            }
        }
    }
}

impl<'a> Predictions<'a> {
    #[track_caller]
    fn check(&self, targets: &[Targets], groups: usize) {
        let (logits, boxes, classes, batch) = (self.logits.len(), self.boxes.len(), self.classes, targets.len());
        let queries = if batch == 0 { 0 } else { boxes / (4 * batch) };
        assert!(
            boxes == batch * queries * 4 && logits == batch * queries * classes,
            "matcher: {logits} logits and {boxes} box elements are not [{batch}, N, {classes}] and [{batch}, N, 4]"
        );
        assert!(groups > 0 && queries % groups == 0, "matcher: {queries} queries are not {groups} equal groups");
        for t in targets {
            assert_eq!(t.labels.len(), t.boxes.len(), "matcher: labels and boxes of an image");
            assert!(t.labels.iter().all(|&l| l < classes), "matcher: a label of {:?} is not below {classes}", t.labels);
        }
    }

    fn image(&self, i: usize, batch: usize) -> Image<'a> {
        let part = |all: &'a [f32]| &all[all.len() / batch * i..all.len() / batch * (i + 1)];
        Image { logits: part(self.logits), boxes: part(self.boxes), classes: self.classes }
    }
}

/// The predictions of one layer for one image.
struct Image<'a> {
    logits: &'a [f32],
    boxes: &'a [f32],
    classes: usize,
}

impl Image<'_> {
    fn groups(&self, groups: usize) -> impl Iterator<Item = Range<usize>> {
        let n = self.boxes.len() / 4 / groups;
        (0..groups).map(move |g| g * n..(g + 1) * n)
    }

    fn logits(&self, query: usize) -> &[f32] {
        &self.logits[query * self.classes..(query + 1) * self.classes]
    }

    fn bbox(&self, query: usize) -> [f32; 4] {
        std::array::from_fn(|i| self.boxes[query * 4 + i])
    }

    fn check_finite(&self) -> Result<(), String> {
        let first = |values: &[f32]| values.iter().position(|v| !v.is_finite());
        if let Some(i) = first(self.logits) {
            return Err(format!("query {}: the logit of class {} is {}", i / self.classes, i % self.classes, self.logits[i]));
        }
        match first(self.boxes) {
            Some(i) => Err(format!("query {}: element {} of the box is {}", i / 4, i % 4, self.boxes[i])),
            None => Ok(()),
        }
    }
}
