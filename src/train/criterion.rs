//! What a detector is told after matching: classes of all queries, boxes of the matched ones.
//!
//! For every decoder layer, over all queries of the batch, with `n` the number of objects in the batch (at least 1):
//!
//! | term | DETR | SMCA-DETR |
//! | --- | --- | --- |
//! | class | cross-entropy, weight 0.1 where there is no object, divided by the sum of the weights; times 1 | sigmoid focal loss / n; times 2 |
//! | L1 | `Σ \|p − t\|₁ / n` over matched queries; times 5 | the same |
//! | GIoU | `Σ (1 − GIoU) / n` over matched queries; times 2 | the same |
//!
//! The sum over terms and layers is the loss. Queries may form groups, each matched on its own: then each group has these terms by
//! itself; the first one counts fully, the others together with [`Criterion::auxiliary`].
//!
//! The host knows normalizers and importance when it has the matching: it writes them into one weight a query
//! ([`Criterion::targets`]), and the device only multiplies ([`Criterion::append`]).

use super::matcher::{Matcher, Pair, Predictions, Targets};
use crate::graph::{Graph, Values, Var};
use crate::kernels::reduce::ColumnSums;
use crate::kernels::{binary, loss};
use crate::tensor::{DType, Host, TensorType};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// How the class is judged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ClassLoss {
    /// Cross-entropy over classes and "no object", the last output.
    CrossEntropy {
        /// Weight of queries without an object, 0.1 in DETR.
        no_object: f32,
    },
    /// Sigmoid focal loss over all outputs; a query without an object wants none of them.
    Focal {
        /// α, 0.25 in the originals.
        alpha: f32,
        /// γ, 2 in the originals.
        gamma: f32,
    },
}

/// Matching and losses of a detector.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Criterion {
    /// How queries find their objects.
    pub matcher: Matcher,
    /// How the class is judged.
    pub class_loss: ClassLoss,
    /// Weight of the class term.
    pub class: f32,
    /// Weight of the L1 term.
    pub bbox: f32,
    /// Weight of the GIoU term.
    pub giou: f32,
    /// Weight of all groups of queries but the first, together.
    pub auxiliary: f32,
}

/// Predictions of all decoder layers as they lie on the device: `[layers · images, queries, classes]` and
/// `[layers · images, queries, 4]`, the queries in `groups` equal groups, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PredictionShape {
    /// Decoder layers.
    pub layers: usize,
    /// Images of the batch.
    pub images: usize,
    /// Groups of queries.
    pub groups: usize,
    /// Queries of all groups.
    pub queries: usize,
    /// Outputs of the class head.
    pub classes: usize,
}

/// For each layer and image, which query has which object.
pub type Matches = Vec<Vec<Vec<Pair>>>;

/// The terms of one decoder layer, not yet times their weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Terms {
    /// Cross-entropy or focal loss.
    pub class: f32,
    /// L1 distance.
    pub l1: f32,
    /// 1 − GIoU.
    pub giou: f32,
}

/// The losses of a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Losses {
    /// The weighted sum of everything.
    pub total: f32,
    /// The terms of the first group of queries, by layer.
    pub layers: Vec<Terms>,
    /// What the other groups of queries add to the total.
    pub auxiliary: f32,
    /// What the distance to a teacher adds to the total, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distillation: Option<f32>,
}

impl Losses {
    /// # Errors
    /// [`Error::NotFinite`] when it is no number.
    pub(super) fn add_distillation(&mut self, distance: f32) -> Result<()> {
        if !distance.is_finite() {
            return Err(Error::NotFinite(format!("the distance to the teacher is {distance}")));
        }
        self.distillation = Some(distance);
        self.total += distance;
        Ok(())
    }
}

/// Inputs and outputs of the loss nodes, by name.
const CLASS: &str = "targets.class";
const CLASS_WEIGHT: &str = "targets.class_weight";
const BOXES: &str = "targets.boxes";
const BOX_WEIGHT: &str = "targets.box_weight";
pub(super) const TERMS: [&str; 3] = ["loss.class", "loss.l1", "loss.giou"];

impl PredictionShape {
    fn rows(self) -> usize {
        self.layers * self.images * self.queries
    }

    fn parts(self) -> usize {
        self.layers * self.images * self.groups
    }

    /// Queries of one group.
    fn queries_a_group(self) -> usize {
        self.queries / self.groups
    }

    #[track_caller]
    fn check(self) {
        let Self { layers, images, groups, queries, classes } = self;
        let fits = layers > 0 && images > 0 && groups > 0 && classes > 1 && queries > 0 && queries % groups == 0;
        assert!(fits, "criterion: {self:?} has an empty part, a single output, or groups that are not equal");
    }
}

impl Criterion {
    /// DETR's: softmax, weights 1, 5 and 2, "no object" at 0.1.
    pub const DETR: Self = Self {
        matcher: Matcher::DETR,
        class_loss: ClassLoss::CrossEntropy { no_object: 0.1 },
        class: 1.0,
        bbox: 5.0,
        giou: 2.0,
        auxiliary: 1.0,
    };

    /// SMCA's, and Deformable DETR's: focal, weights 2, 5 and 2.
    pub const SMCA: Self = Self {
        matcher: Matcher::SMCA,
        class_loss: ClassLoss::Focal { alpha: 0.25, gamma: 2.0 },
        class: 2.0,
        bbox: 5.0,
        giou: 2.0,
        auxiliary: 1.0,
    };

    /// Appends the losses of `logits` f32 `[layers · images, queries, classes]` and `boxes` f32 `[layers · images, queries, 4]` and
    /// returns their weighted sum, f32 `[1]`. The graph gets the inputs that [`Criterion::targets`] fills and the outputs that
    /// [`Criterion::losses`] reads.
    ///
    /// # Panics
    /// When the predictions are not of the given shape.
    #[track_caller]
    pub fn append(&self, g: &mut Graph, logits: Var, boxes: Var, shape: PredictionShape) -> Var {
        shape.check();
        let rows = [shape.layers * shape.images, shape.queries];
        let wanted = [TensorType::f32([rows[0], rows[1], shape.classes]), TensorType::f32([rows[0], rows[1], 4])];
        assert_eq!(g.types(&[logits, boxes]), wanted, "criterion: predictions that are not {shape:?}");
        let class = g.input(CLASS, TensorType::new(rows, DType::U32));
        let class_weight = g.input(CLASS_WEIGHT, TensorType::f32(rows));
        let target_boxes = g.input(BOXES, wanted[1]);
        let box_weight = g.input(BOX_WEIGHT, TensorType::f32(rows));
        g.scoped("loss", |g| {
            let of_class = match self.class_loss {
                ClassLoss::CrossEntropy { .. } => loss::cross_entropy(g, logits, class, class_weight),
                ClassLoss::Focal { alpha, gamma } => loss::focal(g, logits, class, class_weight, alpha, gamma),
            };
            let (l1, giou) = loss::boxes(g, boxes, target_boxes, box_weight);
            let terms = TERMS.into_iter().zip([of_class, l1, giou]).zip([self.class, self.bbox, self.giou]);
            let sums = terms.map(|((name, losses), weight)| weighted_sum(g, name, losses, weight, shape)).collect::<Vec<_>>();
            sums.into_iter().reduce(|sum, term| binary::add(g, sum, term)).expect("three terms")
        })
    }

    /// Matches the predictions of all layers; `logits` and `boxes` as they lie on the device.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when a prediction is no finite number.
    ///
    /// # Panics
    /// When lengths do not fit.
    pub fn match_predictions(&self, logits: &[f32], boxes: &[f32], targets: &[Targets], shape: PredictionShape) -> Result<Matches> {
        shape.check();
        assert_eq!((logits.len(), boxes.len()), (shape.rows() * shape.classes, shape.rows() * 4), "criterion: predictions for {shape:?}");
        assert_eq!(targets.len(), shape.images, "criterion: images");
        let layers = logits.chunks(logits.len() / shape.layers).zip(boxes.chunks(boxes.len() / shape.layers));
        let layers: Vec<_> = layers.map(|(logits, boxes)| Predictions { logits, boxes, classes: shape.classes }).collect();
        self.matcher.match_layers(&layers, targets, shape.groups)
    }

    /// The inputs of the loss nodes for a matching.
    ///
    /// # Panics
    /// When the matching is none of these targets and this shape, or a label is not below the number of classes.
    pub fn targets(&self, matches: &Matches, targets: &[Targets], shape: PredictionShape) -> Values {
        shape.check();
        let objects: usize = targets.iter().map(|t| t.labels.len()).sum();
        let mut rows = Rows::empty(self, shape, objects.max(1) as f32);
        for (layer, images) in matches.iter().enumerate() {
            assert_eq!(images.len(), shape.images, "criterion: images matched in layer {layer}");
            for (image, pairs) in images.iter().enumerate() {
                for &Pair { query, target } in pairs {
                    let row = (layer * shape.images + image) * shape.queries + query;
                    rows.matched(row, targets[image].labels[target], targets[image].boxes[target]);
                }
            }
        }
        rows.normalize();
        rows.values()
    }

    /// What the outputs of the loss nodes say.
    ///
    /// # Errors
    /// [`Error::NotFinite`] naming the layer and term that is no finite number.
    ///
    /// # Panics
    /// When the outputs are missing or not of the given shape.
    pub fn losses(&self, outputs: &Values, shape: PredictionShape) -> Result<Losses> {
        let (layer_parts, weights) = (shape.images * shape.groups, [self.class, self.bbox, self.giou]);
        let mut layers = vec![[0f64; 3]; shape.layers];
        let mut auxiliary = 0f64;
        for (term, name) in TERMS.into_iter().enumerate() {
            let sums = outputs[name].to_f32();
            assert_eq!(sums.len(), shape.parts(), "criterion: `{name}`");
            for (part, &sum) in sums.iter().enumerate() {
                let (layer, group) = (part / layer_parts, part % shape.groups);
                if !sum.is_finite() {
                    let image = part % layer_parts / shape.groups;
                    return Err(Error::NotFinite(format!("{name} of decoder layer {layer}, image {image} of the batch is {sum}")));
                }
                match group {
                    0 => layers[layer][term] += f64::from(sum),
                    _ => auxiliary += f64::from(weights[term]) * f64::from(sum),
                }
            }
        }
        let weighted = |terms: &[f64; 3]| terms.iter().zip(weights).map(|(t, w)| t * f64::from(w)).sum::<f64>();
        let total = layers.iter().map(weighted).sum::<f64>() + auxiliary;
        let terms = |&[class, l1, giou]: &[f64; 3]| Terms { class: class as f32, l1: l1 as f32, giou: giou as f32 };
        let layers = layers.iter().map(terms).collect();
        Ok(Losses { total: total as f32, layers, auxiliary: auxiliary as f32, distillation: None })
    }
}

/// Names the sums of one term over the queries of each layer, image and group, and adds them all up.
fn weighted_sum(g: &mut Graph, name: &str, losses: Var, weight: f32, shape: PredictionShape) -> Var {
    let column = g.reshape(losses, [shape.rows(), 1]);
    let parts = g.apply(ColumnSums { parts: shape.parts(), scale: 1.0, to: DType::F32 }, &[column]);
    let named = g.reshape(parts, [shape.parts()]);
    g.output(name, named);
    let sum = g.apply(ColumnSums { parts: 1, scale: weight, to: DType::F32 }, &[parts]);
    g.reshape(sum, [1])
}

/// The target buffers while they are filled, a row a query.
struct Rows<'a> {
    criterion: &'a Criterion,
    shape: PredictionShape,
    objects: f32,
    class: Vec<u32>,
    class_weight: Vec<f32>,
    boxes: Vec<f32>,
    box_weight: Vec<f32>,
}

impl<'a> Rows<'a> {
    /// Rows of which none has an object.
    fn empty(criterion: &'a Criterion, shape: PredictionShape, objects: f32) -> Self {
        let rows = shape.rows();
        let (class, weight) = match criterion.class_loss {
            ClassLoss::CrossEntropy { no_object } => (shape.classes - 1, no_object),
            ClassLoss::Focal { .. } => (shape.classes, 1.0),
        };
        let (class, class_weight) = (vec![class as u32; rows], vec![weight; rows]);
        Self { criterion, shape, objects, class, class_weight, boxes: vec![0.0; rows * 4], box_weight: vec![0.0; rows] }
    }

    /// Gives a row its object.
    #[track_caller]
    fn matched(&mut self, row: usize, label: usize, bbox: [f32; 4]) {
        assert!(label + 1 < self.shape.classes, "criterion: label {label} of {} classes and no-object", self.shape.classes - 1);
        (self.class[row], self.class_weight[row]) = (label as u32, 1.0);
        self.boxes[row * 4..][..4].copy_from_slice(&bbox);
        self.box_weight[row] = 1.0;
    }

    /// Divides the weights by their normalizers and multiplies them with their groups' importance.
    fn normalize(&mut self) {
        let PredictionShape { layers, groups, .. } = self.shape;
        for layer in 0..layers {
            for group in 0..groups {
                let rows: Vec<usize> = self.rows_of(layer, group).collect();
                let importance = if group == 0 { 1.0 } else { self.criterion.auxiliary / (groups - 1) as f32 };
                let of_classes = match self.criterion.class_loss {
                    ClassLoss::CrossEntropy { .. } => rows.iter().map(|&row| f64::from(self.class_weight[row])).sum::<f64>() as f32,
                    ClassLoss::Focal { .. } => self.objects,
                };
                for row in rows {
                    // No weight at all, when "no object" counts nothing and there are no objects: no loss, not 0/0.
                    self.class_weight[row] *= if of_classes > 0.0 { importance / of_classes } else { 0.0 };
                    self.box_weight[row] *= importance / self.objects;
                }
            }
        }
    }

    /// The rows of one group in all images.
    fn rows_of(&self, layer: usize, group: usize) -> impl Iterator<Item = usize> + use<> {
        let (shape, many) = (self.shape, self.shape.queries_a_group());
        (0..shape.images).flat_map(move |image| {
            let first = (layer * shape.images + image) * shape.queries + group * many;
            first..first + many
        })
    }

    fn values(self) -> Values {
        let rows = [self.shape.layers * self.shape.images, self.shape.queries];
        Values::from([
            (CLASS.to_owned(), Host::u32(rows, self.class)),
            (CLASS_WEIGHT.to_owned(), Host::f32(rows, self.class_weight)),
            (BOXES.to_owned(), Host::f32([rows[0], rows[1], 4], self.boxes)),
            (BOX_WEIGHT.to_owned(), Host::f32(rows, self.box_weight)),
        ])
    }
}
