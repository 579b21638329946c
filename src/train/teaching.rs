//! Distillation in the graph of a step: the teacher's forward beside the student's, and the loss between them.
//!
//! | segment | inputs | outputs |
//! | --- | --- | --- |
//! | 0 | those of the student | `teacher_boxes [layers · B, M, 4]`, f32, of the layers that are imitated |
//! | 1 | `distillation.partner.i` u32 and `distillation.weight.i` f32, `[B, N]`, of every layer that imitates | `loss.distillation` f32 `[1]`, times λ |

use super::criterion::PredictionShape;
use super::distill::{Distillation, Features, Layers};
use super::matcher::Targets;
use crate::Result;
use crate::graph::{Graph, Values, Var};
use crate::kernels::loss::Distance;
use crate::kernels::{binary, reduce};
use crate::models::detr::Input;
use crate::models::{ModelConfig, Results, detr};
use crate::nn::{Net, Precision};
use crate::tensor::{DType, Host, TensorType};
use std::collections::BTreeMap;
use std::ops::Range;

/// The scope of the teacher, and so the beginning of its parameters' names.
pub(super) const TEACHER: &str = "teacher";
/// The output that query matching reads.
pub(super) const TEACHER_BOXES: &str = "teacher_boxes";
/// The output that is the loss.
pub(super) const DISTILLATION: &str = "loss.distillation";

/// What a graph of a step is distilled from, and how.
#[derive(Clone, Copy, Debug)]
pub struct Teaching<'a> {
    /// The model of the teacher.
    pub teacher: &'a ModelConfig,
    /// What is imitated.
    pub distillation: Distillation,
}

impl Teaching<'_> {
    /// Appends the teacher's forward on the student's input and returns its features, of one layer after the other.
    pub(super) fn forward(self, graph: &mut Graph, precision: Precision, input: Input) -> Vec<Var> {
        let results = match self.distillation.layers {
            Layers::Last => Results::Answers,
            Layers::All => Results::Layers { query_groups: 0 },
        };
        let mut net = Net::beside(std::mem::take(graph), precision);
        let boxes = net.scoped(TEACHER, |net| detr::forward(net, self.teacher, input, results).boxes[0]);
        net.output(TEACHER_BOXES, boxes);
        let features = self.features(net.taps(), &format!("{TEACHER}."), self.teacher);
        *graph = net.into_parts().0;
        features
    }

    /// What is compared, of one layer after the other, found among what a network has named.
    pub(super) fn features(self, taps: &BTreeMap<String, Var>, prefix: &str, model: &ModelConfig) -> Vec<Var> {
        let Distillation { features, layers, .. } = self.distillation;
        let name = match features {
            Features::BeforeProjection => "features",
            Features::AfterProjection => "update",
        };
        let tap = |layer: usize| taps[&format!("{prefix}transformer.decoder.layers.{layer}.multihead_attn.{name}")];
        imitating(layers, model.decoder_layers).map(tap).collect()
    }

    /// Appends the loss between features of student and teacher, f32 `[1]`.
    pub(super) fn loss(self, g: &mut Graph, student: &[Var], teacher: &[Var]) -> Var {
        let layers = student.iter().zip(teacher).enumerate();
        let losses: Vec<Var> = layers.map(|(i, (&student, &teacher))| self.layer(g, i, student, teacher)).collect();
        let loss = losses.into_iter().reduce(|sum, loss| binary::add(g, sum, loss)).expect("a layer imitates");
        g.output(DISTILLATION, loss);
        loss
    }

    fn layer(self, g: &mut Graph, i: usize, student: Var, teacher: Var) -> Var {
        let [images, queries, _] = g.shape(student).blc();
        let partner = g.input(&partner(i), TensorType::new([images, queries], DType::U32));
        let weight = g.input(&weight(i), TensorType::f32([images, queries]));
        let rows = g.apply(Distance { squared: self.distillation.squared }, &[student, teacher, partner, weight]);
        reduce::total(g, rows)
    }
}

fn partner(i: usize) -> String {
    format!("distillation.partner.{i}")
}

fn weight(i: usize) -> String {
    format!("distillation.weight.{i}")
}

/// The layers that imitate, of so many.
fn imitating(which: Layers, layers: usize) -> Range<usize> {
    match which {
        Layers::Last => layers - 1..layers,
        Layers::All => 0..layers,
    }
}

/// The inputs of the loss: who imitates whom, from the boxes of both as they were read.
///
/// # Errors
/// As [`QueryMatcher::match_batch`](super::distill::QueryMatcher::match_batch).
pub(super) fn partners(
    distillation: Distillation,
    [student, teacher]: [&[f32]; 2],
    targets: &[Targets],
    shape: PredictionShape,
) -> Result<Values> {
    let imitating = imitating(distillation.layers, shape.layers);
    let (of_student, of_teacher) = (student.len() / shape.layers, teacher.len() / imitating.len());
    let pairs = student.chunks(of_student).skip(imitating.start).zip(teacher.chunks(of_teacher));
    let share = distillation.weight / imitating.len() as f32;
    let mut values = Values::new();
    for (i, (student, teacher)) in pairs.enumerate() {
        let found = distillation.matching.match_batch(student, teacher, targets, distillation.mean)?;
        let weights = found.weight.to_f32().iter().map(|w| w * share).collect();
        values.insert(weight(i), Host::f32(found.weight.shape().dims(), weights));
        values.insert(partner(i), found.teacher);
    }
    Ok(values)
}
