//! From a network's answers to boxes on pictures, as `PostProcess` of the original DETR and SMCA-DETR do: no non-maximum
//! suppression.

use super::config::Attention;
use crate::boxes::cxcywh_to_xyxy;
use crate::data::preprocess::Size;
use crate::tensor::Host;
use crate::{Error, Result};

/// One object on one picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// Class id.
    pub label: usize,
    /// Its probability, 0 to 1.
    pub score: f32,
    /// Left, top, right, bottom in pixels of the original picture; can reach beyond it.
    pub bbox: [f32; 4],
}

impl Detection {
    /// The same with its box cut at the borders of the picture.
    pub fn clamped(self, picture: Size) -> Self {
        let (width, height) = (picture.width as f32, picture.height as f32);
        let [left, top, right, bottom] = self.bbox;
        let bbox = [left.clamp(0.0, width), top.clamp(0.0, height), right.clamp(0.0, width), bottom.clamp(0.0, height)];
        Self { bbox, ..self }
    }
}

/// Detections of each picture, best first, whose probability reaches `threshold`.
///
/// A plain model gives one a query: the likeliest class that is not no-object, by softmax. SMCA-DETR judges each class by itself:
/// of all N · (K + 1) sigmoids the N highest, those of no-object, which is never learned, then left out; a query can have several.
///
/// `logits [B, N, K + 1]`, the last one no-object; `boxes [B, N, 4]`, cxcywh from 0 to 1 of each picture; `pictures` are
/// their original sizes. Equal scores stay in the order of the queries.
///
/// # Errors
/// [`Error::NotFinite`] when a logit or a box is no number.
///
/// # Panics
/// When the shapes do not fit each other.
pub fn detections(attention: Attention, logits: &Host, boxes: &Host, pictures: &[Size], threshold: f32) -> Result<Vec<Vec<Detection>>> {
    let of_picture = |answers: Answers<'_>| {
        let mut found = match attention {
            Attention::Plain => answers.by_query(attention),
            Attention::Smca => answers.likeliest(),
        };
        found.retain(|d| d.score >= threshold);
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        found
    };
    for_each(logits, boxes, pictures, of_picture)
}

/// Of each picture, the likeliest class of every query, in the order of the queries, whatever its probability.
///
/// # Errors
/// As [`detections`].
///
/// # Panics
/// As [`detections`].
pub fn by_query(attention: Attention, logits: &Host, boxes: &Host, pictures: &[Size]) -> Result<Vec<Vec<Detection>>> {
    for_each(logits, boxes, pictures, |answers| answers.by_query(attention))
}

/// What is made of the answers of each picture.
fn for_each(
    logits: &Host,
    boxes: &Host,
    pictures: &[Size],
    of_picture: impl Fn(Answers<'_>) -> Vec<Detection>,
) -> Result<Vec<Vec<Detection>>> {
    let ([b, n, classes], [..]) = (logits.shape().blc(), boxes.shape().blc());
    assert!(boxes.shape().dims() == [b, n, 4] && pictures.len() == b, "{} and {} for {} pictures", logits.ty(), boxes.ty(), pictures.len());
    let (logits, boxes) = (logits.to_f32(), boxes.to_f32());
    if logits.iter().chain(boxes.iter()).any(|x| !x.is_finite()) {
        return Err(Error::NotFinite("the network's answers are not finite: its weights are damaged, or f16 is too small for them".into()));
    }
    let parts = logits.chunks(n * classes).zip(boxes.chunks(n * 4)).zip(pictures);
    Ok(parts.map(|((logits, boxes), &picture)| of_picture(Answers { logits, boxes, classes, picture })).collect())
}

/// What a network says of one picture.
struct Answers<'a> {
    logits: &'a [f32],
    boxes: &'a [f32],
    /// Outputs of the class head.
    classes: usize,
    picture: Size,
}

impl Answers<'_> {
    /// The likeliest class of every query.
    fn by_query(&self, attention: Attention) -> Vec<Detection> {
        let best = |(query, logits): (usize, &[f32])| {
            let probabilities = match attention {
                Attention::Plain => softmax(logits),
                Attention::Smca => logits.iter().copied().map(sigmoid).collect(),
            };
            let objects = probabilities[..probabilities.len() - 1].iter().copied().enumerate();
            // The first of equals, as PyTorch's `max` on a CPU.
            let (label, score) = objects.fold((0, f32::NEG_INFINITY), |best, (i, p)| if p > best.1 { (i, p) } else { best });
            self.detection(query, label, score)
        };
        self.logits.chunks(self.classes).enumerate().map(best).collect()
    }

    /// As many pairs of query and class as there are queries, those with the highest logits.
    fn likeliest(&self) -> Vec<Detection> {
        let queries = self.logits.len() / self.classes;
        let mut pairs: Vec<usize> = (0..self.logits.len()).collect();
        // Stable: of equals the first.
        pairs.sort_by(|&a, &b| self.logits[b].total_cmp(&self.logits[a]));
        let objects = pairs[..queries].iter().filter(|&pair| pair % self.classes != self.classes - 1);
        objects.map(|&pair| self.detection(pair / self.classes, pair % self.classes, sigmoid(self.logits[pair]))).collect()
    }

    fn detection(&self, query: usize, label: usize, score: f32) -> Detection {
        let (width, height) = (self.picture.width as f32, self.picture.height as f32);
        let bbox = &self.boxes[4 * query..];
        let [left, top, right, bottom] = cxcywh_to_xyxy([bbox[0], bbox[1], bbox[2], bbox[3]]);
        Detection { label, score, bbox: [left * width, top * height, right * width, bottom * height] }
    }
}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// `exp(x_i) / Σ exp(x_j)`
pub(super) fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|x| (x - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|p| p / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PICTURE: Size = Size { width: 200, height: 100 };

    fn run(logits: &[[f32; 3]], boxes: &[[f32; 4]], threshold: f32) -> Result<Vec<Detection>> {
        run_as(Attention::Plain, logits, boxes, threshold)
    }

    fn run_as(attention: Attention, logits: &[[f32; 3]], boxes: &[[f32; 4]], threshold: f32) -> Result<Vec<Detection>> {
        let n = logits.len();
        let (logits, boxes) = (Host::f32([1, n, 3], logits.as_flattened().to_vec()), Host::f32([1, n, 4], boxes.as_flattened().to_vec()));
        detections(attention, &logits, &boxes, &[PICTURE], threshold).map(|mut all| all.remove(0))
    }

    #[test]
    fn boxes_are_scaled_by_the_original_size_and_sorted_by_score() {
        let found = run(&[[0.0, 1.0, 0.0], [3.0, 0.0, 0.0]], &[[0.5, 0.5, 0.2, 0.4], [0.1, 0.5, 0.4, 1.0]], 0.0).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].label, found[1].label), (0, 1));
        for (found, expected) in found[0].bbox.into_iter().zip([-20.0, 0.0, 60.0, 100.0]) {
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        }
        let e = 1f32.exp();
        assert!((found[1].score - e / (e + 2.0)).abs() < 1e-6);
        assert_eq!(found[0].clamped(PICTURE).bbox[0], 0.0);
    }

    #[test]
    fn no_object_is_never_a_label_but_takes_its_share() {
        let found = run(&[[1.0, 0.0, 9.0]], &[[0.5; 4]], 0.0).unwrap();
        assert_eq!(found[0].label, 0);
        assert!(found[0].score < 1e-3);
        assert!(run(&[[1.0, 0.0, 9.0]], &[[0.5; 4]], 0.5).unwrap().is_empty());
    }

    #[test]
    fn equal_scores_stay_in_order_of_queries_and_the_first_class_wins() {
        let found = run(&[[2.0, 2.0, 0.0], [2.0, 2.0, 0.0]], &[[0.1; 4], [0.2; 4]], 0.1).unwrap();
        assert!(found[0].bbox[2] < found[1].bbox[2] && found[0].label == 0);
    }

    #[test]
    fn each_class_is_judged_by_itself_and_a_query_may_have_several() {
        let logits = [[2.0, 1.0, -9.0], [-3.0, 0.0, 3.0], [-5.0, -5.0, -5.0]];
        let boxes = [[0.1; 4], [0.2; 4], [0.3; 4]];
        let found = run_as(Attention::Smca, &logits, &boxes, 0.0).unwrap();
        // The three highest of nine are 3 (no-object), 2 and 1.
        assert_eq!(found.iter().map(|d| d.label).collect::<Vec<_>>(), [0, 1]);
        assert!((found[0].score - 1.0 / (1.0 + (-2f32).exp())).abs() < 1e-6);
        assert!(found.iter().all(|d| (d.bbox[0] - 10.0).abs() < 1e-4), "both of the first query");
        assert_eq!(run_as(Attention::Smca, &logits, &boxes, 0.8).unwrap().len(), 1);
    }

    #[test]
    fn equal_sigmoids_stay_in_order() {
        let found = run_as(Attention::Smca, &[[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]], &[[0.1; 4], [0.2; 4]], 0.0).unwrap();
        assert_eq!(found.iter().map(|d| d.label).collect::<Vec<_>>(), [0, 1]);
        assert!(found[0].bbox == found[1].bbox);
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let logits = [[1e30, -1e30, 0.0]];
        assert_eq!(run_as(Attention::Smca, &logits, &[[0.5; 4]], 0.0).unwrap()[0].score, 1.0);

        let found = run(&[[1e30, -1e30, 0.0]], &[[0.5; 4]], 0.5).unwrap();
        assert_eq!((found[0].label, found[0].score), (0, 1.0));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for (logit, side) in [(f32::NAN, 0.5), (0.0, f32::NAN), (f32::INFINITY, 0.5)] {
            assert!(matches!(run(&[[logit, 0.0, 0.0]], &[[side; 4]], 0.0), Err(Error::NotFinite(_))));
        }
    }
}
