//! Q-DETR's distillation: which queries of a teacher a student imitates, and how much (Xu et al., CVPR 2023).
//!
//! The teacher is a detector of floats that looks at the same pictures without dropout; [`Distillation`] says what is imitated.
//!
//! Foreground-aware query matching (Eq. 10 to 13) says who imitates whom.
//! For one image with objects `i`, student queries `j` and teacher queries `k`:
//!
//! - `G_i = max_j GIoU(object_i, student_j)`, how well the best query covers an object;
//! - query j is kept when `GIoU(object_i, student_j) > τ · G_i` for some object i;
//! - its partner is `argmax_k μ₁ · GIoU(student_j, teacher_k) − μ₂ · |student_j − teacher_k|₁`, L1 on normalized `cxcywh`; the lowest k of
//!   those that are equal. Several queries may have one partner, and the two models different numbers of queries.
//!
//! Where the paper leaves room: its "for all i" can only mean "for some i", as its text says; an object with `G_i ≤ 0`, which no query
//! touches well, keeps none, since `τ · G_i ≥ G_i` there.
//!
//! The loss (Eq. 14 and 15) is `λ · mean ‖D_student − D_teacher‖₂` over the kept queries: [`distance`](crate::kernels::loss::distance()) of the
//! decoder's co-attended features, with [`Partners`] as its inputs. The paper leaves open which layers, whether D is taken before the
//! output projection, and of what the mean is: see [`Distillation`].

use super::matcher::Targets;
use crate::boxes::{cxcywh_to_xyxy, giou};
use crate::graph::Values;
use crate::models::ModelConfig;
use crate::tensor::Host;
use crate::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// A detector whose queries are imitated.
#[derive(Clone, Debug)]
pub struct Teacher {
    /// What it is made of; its transformer is as wide as the student's.
    pub config: ModelConfig,
    /// Its parameters, f32.
    pub params: Values,
}

impl Teacher {
    /// Checks that a student can learn from it.
    ///
    /// # Errors
    /// [`Error::Config`] naming what does not fit.
    pub fn check(&self, student: &ModelConfig, distillation: &Distillation) -> Result<()> {
        self.config.validate()?;
        if let Some(quantization) = &self.config.quantization {
            return Err(Error::Config(format!("the teacher is of {quantization}; a teacher is a model of floats")));
        }
        distillation.validate()?;
        let same = |what: &str, theirs: usize, ours: usize| match theirs == ours {
            true => Ok(()),
            false => {
                Err(Error::Config(format!("the teacher's `{what}` is {theirs}, the student's {ours}; for distillation they must be equal")))
            }
        };
        same("d_model", self.config.d_model, student.d_model)?;
        match distillation.layers {
            Layers::Last => Ok(()),
            Layers::All => same("decoder_layers", self.config.decoder_layers, student.decoder_layers),
        }
    }
}

/// Which decoder layers imitate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layers {
    /// The last one.
    #[default]
    Last,
    /// Each its counterpart, matched by its own boxes; the loss is the mean over layers.
    All,
}

/// What the co-attended features are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Features {
    /// The heads side by side: the letter of Eq. 3, which has no projection.
    #[default]
    BeforeProjection,
    /// What the attention adds to its query.
    AfterProjection,
}

/// What the loss is a mean of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mean {
    /// All kept queries of the batch.
    #[default]
    Queries,
    /// The pictures, each with the mean of its own kept queries; those without count 0.
    Images,
}

/// What a student imitates, and how much. The defaults are the paper's where it says something.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Distillation {
    /// λ, the weight of the loss beside the detection losses.
    pub weight: f32,
    /// Whose queries are compared.
    pub matching: QueryMatcher,
    /// Which decoder layers.
    pub layers: Layers,
    /// Which features.
    pub features: Features,
    /// What the loss is a mean of.
    pub mean: Mean,
    /// Squared distances in place of distances.
    pub squared: bool,
}

impl Default for Distillation {
    fn default() -> Self {
        Self::Q_DETR
    }
}

impl Distillation {
    /// The paper's: λ 2.5, and our choice where it is silent.
    pub const Q_DETR: Self = Self {
        weight: 2.5,
        matching: QueryMatcher::Q_DETR,
        layers: Layers::Last,
        features: Features::BeforeProjection,
        mean: Mean::Queries,
        squared: false,
    };

    /// Checks what the type system does not.
    ///
    /// # Errors
    /// [`Error::Config`] naming the number and what it may be.
    pub fn validate(&self) -> Result<()> {
        self.matching.validate()?;
        match self.weight {
            weight if (0.0..=1e4).contains(&weight) => Ok(()),
            weight => Err(Error::Config(format!("the `weight` of `distillation` is {weight}; it must be between 0 and 10000"))),
        }
    }
}

/// The numbers of a query matching.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueryMatcher {
    /// τ: the share of an object's best overlap that a query needs to be kept, at least 0. From 1 on, none is kept.
    pub tau: f32,
    /// μ₁.
    pub giou: f32,
    /// μ₂.
    pub bbox: f32,
}

/// Whom each student query imitates, and how much: inputs of the loss.
#[derive(Clone, Debug, PartialEq)]
pub struct Partners {
    /// u32 `[B, N]`: the teacher query of the same image; 0 where the query is not kept.
    pub teacher: Host,
    /// f32 `[B, N]`: the query's share of the mean, 0 where it is not kept.
    pub weight: Host,
    /// The kept queries in the batch.
    pub kept: usize,
}

impl Default for QueryMatcher {
    fn default() -> Self {
        Self::Q_DETR
    }
}

impl QueryMatcher {
    /// The paper's: τ 0.6, μ 2 and 5.
    pub const Q_DETR: Self = Self { tau: 0.6, giou: 2.0, bbox: 5.0 };

    /// Checks what the type system does not.
    ///
    /// # Errors
    /// [`Error::Config`] naming the number and what it may be.
    pub fn validate(&self) -> Result<()> {
        let Self { tau, giou, bbox } = *self;
        let numbers = [("tau", tau, 1.0), ("giou", giou, 1e3), ("bbox", bbox, 1e3)];
        match numbers.into_iter().find(|&(_, value, most)| !(0.0..=most).contains(&value)) {
            Some((name, value, most)) => Err(Error::Config(format!("`{name}` is {value}; it must be between 0 and {most}"))),
            None => Ok(()),
        }
    }

    /// Matches the queries of a batch: boxes of the student `[B, N, 4]` and of the teacher `[B, M, 4]`, normalized `cxcywh`, row-major,
    /// and the objects of each image.
    ///
    /// # Errors
    /// [`Error::NotFinite`] naming model, image and query of a box that is no finite number, or that is too large to overlap.
    ///
    /// # Panics
    /// When the boxes do not fill the batch.
    #[track_caller]
    pub fn match_batch(&self, student: &[f32], teacher: &[f32], targets: &[Targets], mean: Mean) -> Result<Partners> {
        let images = targets.len();
        let [student, teacher] = [student, teacher].map(|flat| {
            let fits = images > 0 && !flat.is_empty() && flat.len().is_multiple_of(4 * images);
            assert!(fits, "query matching: {} numbers are no boxes of {images} images", flat.len());
            flat.as_chunks::<4>().0
        });
        let (students, teachers) = (student.len() / images, teacher.len() / images);
        check_finite("student", student, students)?;
        check_finite("teacher", teacher, teachers)?;
        let partners: Vec<Vec<Option<usize>>> = student
            .par_chunks_exact(students)
            .zip(teacher.par_chunks_exact(teachers))
            .zip(targets)
            .enumerate()
            .map(|(image, ((student, teacher), targets))| {
                self.match_image(student, teacher, &targets.boxes)
                    .ok_or_else(|| Error::NotFinite(format!("query matching: image {image} has boxes too large to overlap")))
            })
            .collect::<Result<_>>()?;
        Ok(Partners::new(&partners, mean))
    }

    /// The partner of each student query of an image, where it is kept. `None` when an overlap is not a finite number.
    fn match_image(&self, student: &[[f32; 4]], teacher: &[[f32; 4]], objects: &[[f32; 4]]) -> Option<Vec<Option<usize>>> {
        let corners = |boxes: &[[f32; 4]]| -> Vec<[f32; 4]> { boxes.iter().map(|&b| cxcywh_to_xyxy(b)).collect() };
        let student_corners = corners(student);
        let mut kept = vec![false; student.len()];
        for object in corners(objects) {
            let overlaps: Vec<f32> = student_corners.iter().map(|&s| giou(object, s)).collect();
            if overlaps.iter().any(|g| !g.is_finite()) {
                return None;
            }
            let best = overlaps.iter().copied().fold(f32::MIN, f32::max);
            kept.iter_mut().zip(overlaps).for_each(|(kept, g)| *kept |= best > 0.0 && g > self.tau * best);
        }
        let partner = |(j, kept): (usize, bool)| match kept {
            true => self.nearest(student[j], teacher).map(Some),
            false => Some(None),
        };
        kept.into_iter().enumerate().map(partner).collect()
    }

    /// The teacher query that is nearest to a student's, by their normalized `cxcywh`: `argmax_k μ₁ · GIoU − μ₂ · L1`. `None` when an
    /// overlap is not a finite number or there is none.
    pub fn nearest(&self, student: [f32; 4], teacher: &[[f32; 4]]) -> Option<usize> {
        let corners = cxcywh_to_xyxy(student);
        let closeness = |theirs: &[f32; 4]| {
            let l1: f32 = student.iter().zip(theirs).map(|(s, t)| (s - t).abs()).sum();
            self.giou * giou(corners, cxcywh_to_xyxy(*theirs)) - self.bbox * l1
        };
        first_largest(teacher.iter().map(closeness))
    }
}

/// The position of the largest number, the first of those that are equal; `None` when one is not finite or there is none.
fn first_largest(mut values: impl Iterator<Item = f32>) -> Option<usize> {
    let mut best = (0, values.next().filter(|v| v.is_finite())?);
    for (i, value) in values.enumerate() {
        if !value.is_finite() {
            return None;
        }
        if value > best.1 {
            best = (i + 1, value);
        }
    }
    Some(best.0)
}

fn check_finite(model: &str, boxes: &[[f32; 4]], queries: usize) -> Result<()> {
    match boxes.iter().position(|b| b.iter().any(|v| !v.is_finite())) {
        None => Ok(()),
        Some(at) => {
            let (image, query, found) = (at / queries, at % queries, boxes[at]);
            Err(Error::NotFinite(format!("query matching: {model}, image {image}, query {query}: the box is {found:?}")))
        }
    }
}

impl Partners {
    fn new(images: &[Vec<Option<usize>>], mean: Mean) -> Self {
        let shape = [images.len(), images[0].len()];
        let count = |image: &[Option<usize>]| image.iter().flatten().count();
        let kept = images.iter().map(|image| count(image)).sum();
        let share = |image: &[Option<usize>]| match mean {
            Mean::Queries => 1.0 / kept as f32,
            Mean::Images => 1.0 / (count(image) * images.len()) as f32,
        };
        let teacher = images.iter().flatten().map(|p| p.map_or(0, |k| k as u32)).collect();
        let weight = images.iter().flat_map(|image| image.iter().map(|p| if p.is_some() { share(image) } else { 0.0 })).collect();
        Self { teacher: Host::u32(shape, teacher), weight: Host::f32(shape, weight), kept }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: [f32; 4] = [0.5, 0.5, 0.4, 0.4];

    fn targets(boxes: &[[f32; 4]]) -> Targets {
        Targets { labels: vec![0; boxes.len()], boxes: boxes.to_vec() }
    }

    fn partners(student: &[[f32; 4]], teacher: &[[f32; 4]], objects: &[[f32; 4]], tau: f32) -> Vec<Option<usize>> {
        QueryMatcher { tau, ..QueryMatcher::Q_DETR }.match_image(student, teacher, objects).unwrap()
    }

    #[test]
    fn queries_near_an_object_are_kept_and_find_the_nearest_teacher_query() {
        let student = [OBJECT, [0.52, 0.5, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1]];
        let teacher = [[0.1, 0.1, 0.1, 0.1], [0.53, 0.5, 0.4, 0.4], OBJECT, [0.9, 0.9, 0.1, 0.1]];
        assert_eq!(partners(&student, &teacher, &[OBJECT], 0.6), [Some(2), Some(1), None]);
        // Near another object, the third is kept as well: for some object, not for all.
        assert_eq!(partners(&student, &teacher, &[OBJECT, [0.1, 0.1, 0.12, 0.1]], 0.6), [Some(2), Some(1), Some(0)]);
    }

    #[test]
    fn between_equal_teacher_queries_the_first_is_the_partner() {
        assert_eq!(partners(&[OBJECT; 2], &[[0.1, 0.1, 0.1, 0.1], OBJECT, OBJECT], &[OBJECT], 0.6), [Some(1), Some(1)]);
    }

    #[test]
    fn an_object_that_no_query_overlaps_keeps_none() {
        let far = [[0.1, 0.1, 0.1, 0.1], [0.1, 0.9, 0.05, 0.05]];
        for tau in [0.0, 0.6, 1.0] {
            assert_eq!(partners(&far, &far, &[[0.8, 0.4, 0.1, 0.1]], tau), [None, None], "{tau}");
        }
        assert_eq!(partners(&[OBJECT], &[OBJECT], &[], 0.6), [None]);
    }

    #[test]
    fn tau_1_keeps_none_and_tau_0_all_that_overlap() {
        let student = [OBJECT, [0.6, 0.5, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1]];
        assert_eq!(partners(&student, &[OBJECT], &[OBJECT], 1.0), [None; 3]);
        assert_eq!(partners(&student, &[OBJECT], &[OBJECT], 0.0), [Some(0), Some(0), None]);
    }

    #[test]
    fn the_batch_shares_the_weight_of_one() {
        let student = [OBJECT, [0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1], OBJECT, OBJECT, OBJECT].concat();
        let teacher = [OBJECT; 3].concat();
        let images = [targets(&[OBJECT]), targets(&[]), targets(&[OBJECT])];
        let found = QueryMatcher::Q_DETR.match_batch(&student, &teacher, &images, Mean::Queries).unwrap();
        assert_eq!(found.kept, 3);
        let third = 1.0 / 3.0;
        assert_eq!(found.weight, Host::f32([3, 2], vec![third, 0.0, 0.0, 0.0, third, third]));
        assert_eq!(found.teacher, Host::u32([3, 2], vec![0; 6]));
        let of_images = QueryMatcher::Q_DETR.match_batch(&student, &teacher, &images, Mean::Images).unwrap();
        assert_eq!(of_images.weight, Host::f32([3, 2], vec![third, 0.0, 0.0, 0.0, third / 2.0, third / 2.0]));
        let none = QueryMatcher::Q_DETR.match_batch(&student, &teacher, &vec![targets(&[]); 3], Mean::Queries).unwrap();
        assert_eq!((none.kept, none.weight), (0, Host::f32([3, 2], vec![0.0; 6])));
    }

    #[test]
    fn boxes_that_are_no_numbers_are_named() {
        let [good, mut bad] = [[OBJECT; 4].concat(), [OBJECT; 4].concat()];
        bad[3 * 4 + 1] = f32::NAN;
        let objects = [targets(&[OBJECT]), targets(&[OBJECT])];
        let text = |student: &[f32], teacher: &[f32]| {
            QueryMatcher::Q_DETR.match_batch(student, teacher, &objects, Mean::Queries).unwrap_err().to_string()
        };
        assert!(text(&bad, &good).contains("student, image 1, query 1"), "{}", text(&bad, &good));
        assert!(text(&good, &bad).contains("teacher, image 1, query 1"), "{}", text(&good, &bad));
        bad[13] = 0.5;
        bad[14..16].fill(1e30);
        assert!(text(&bad, &good).contains("image 1 has boxes too large"), "{}", text(&bad, &good));
        assert!(text(&good, &bad).contains("image 1 has boxes too large"), "{}", text(&good, &bad));
    }

    #[test]
    fn numbers_outside_their_range_are_refused() {
        QueryMatcher::Q_DETR.validate().unwrap();
        for (tau, giou) in [(f32::NAN, 2.0), (1.5, 2.0), (-0.1, 2.0), (0.6, -1.0)] {
            let wrong = QueryMatcher { tau, giou, ..QueryMatcher::Q_DETR };
            assert!(wrong.validate().unwrap_err().to_string().contains("between 0 and"), "{wrong:?}");
        }
    }
}
