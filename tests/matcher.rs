//! Hungarian matching against scipy, against brute force, and with predictions that cannot be matched.

use proptest::prelude::*;
use qdetr::boxes::{cxcywh_to_xyxy, giou};
use qdetr::train::matcher::{Matcher, Pair, Predictions, Targets};
use serde_json::Value;
use std::fs;
use std::path::Path;

fn floats(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(list) => list.iter().flat_map(floats).collect(),
        number => vec![number.as_f64().unwrap() as f32],
    }
}

fn boxes(flat: &[f32]) -> Vec<[f32; 4]> {
    flat.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]).collect()
}

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/golden/train/matcher.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Pairs of whole numbers, as a golden has them.
fn pairs(value: &Value) -> Vec<(usize, usize)> {
    let number = |v: &Value| v.as_u64().unwrap() as usize;
    value.as_array().unwrap().iter().map(|p| (number(&p[0]), number(&p[1]))).collect()
}

#[test]
fn predictions_are_matched_as_scipy_matches_the_papers_costs() {
    let golden = golden();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 6);
    for case in cases {
        let (logits, predicted) = (floats(&case["logits"]), floats(&case["boxes"]));
        let labels = floats(&case["labels"]).into_iter().map(|l| l as usize).collect();
        let targets = Targets { labels, boxes: boxes(&floats(&case["targets"])) };
        let layer = Predictions { logits: &logits, boxes: &predicted, classes: case["classes"].as_u64().unwrap() as usize };
        for (name, matcher) in [("detr", Matcher::DETR), ("smca", Matcher::SMCA)] {
            let found = matcher.match_layers(&[layer], std::slice::from_ref(&targets), 1).unwrap();
            let found: Vec<_> = found[0][0].iter().map(|p| (p.query, p.target)).collect();
            assert_eq!(found, pairs(&case[name]), "{}: {name}", case["name"]);
        }
    }
}

#[test]
fn the_solver_chooses_between_ties_as_scipy() {
    let golden = golden();
    let cases = golden["ties"].as_array().unwrap();
    assert!(cases.len() >= 16);
    for case in cases {
        let cost = floats(&case["cost"]).into_iter().map(f64::from).collect();
        let shape = floats(&case["shape"]);
        let (rows, columns) = lsap::solve(shape[0] as usize, shape[1] as usize, &cost, false).unwrap();
        assert_eq!(rows.into_iter().zip(columns).collect::<Vec<_>>(), pairs(&case["pairs"]), "{case}");
    }
}

/// Uniform numbers in 0..1 from a seed, without ties.
fn numbers(seed: u64, n: usize) -> Vec<f32> {
    (0..n).map(|i| qdetr::rng::hashed_uniform("matcher", (seed as u32).wrapping_mul(65_537).wrapping_add(i as u32)) / 2.0 + 0.5).collect()
}

fn random_targets(seed: u64, objects: usize, classes: usize) -> Targets {
    let labels = numbers(seed, objects).into_iter().map(|v| (v * (classes - 1) as f32) as usize).collect();
    Targets { labels, boxes: boxes(&numbers(seed + 1000, objects * 4)) }
}

/// The lowest sum over all ways to match, by trying them.
fn lowest(cost: &dyn Fn(usize, usize) -> f64, queries: usize, objects: usize, free: u32) -> f64 {
    let done = queries - free.count_ones() as usize;
    if done == objects {
        return 0.0;
    }
    (0..queries)
        .filter(|q| free >> q & 1 == 1)
        .map(|q| cost(q, done) + lowest(cost, queries, objects, free & !(1 << q)))
        .fold(f64::INFINITY, f64::min)
}

proptest! {
    #[test]
    fn the_sum_is_the_lowest_of_all(seed in 0u64..1_000_000, queries in 1usize..7, objects in 0usize..7) {
        let objects = objects.min(queries);
        let (logits, predicted) = (numbers(seed, queries * 3), numbers(seed + 1, queries * 4));
        let targets = random_targets(seed, objects, 3);
        let cost = |q: usize, t: usize| {
            let row = &logits[q * 3..q * 3 + 3];
            let sum: f32 = row.iter().map(|v| v.exp()).sum();
            let b = boxes(&predicted)[q];
            let l1: f32 = b.iter().zip(targets.boxes[t]).map(|(a, b)| (a - b).abs()).sum();
            let overlap = giou(cxcywh_to_xyxy(b), cxcywh_to_xyxy(targets.boxes[t]));
            f64::from(5.0 * l1 - row[targets.labels[t]].exp() / sum - 2.0 * overlap)
        };
        let layer = Predictions { logits: &logits, boxes: &predicted, classes: 3 };
        let found = Matcher::DETR.match_layers(&[layer], std::slice::from_ref(&targets), 1).unwrap();
        let pairs = &found[0][0];
        prop_assert_eq!(pairs.len(), objects);
        let mut used: Vec<_> = pairs.iter().map(|p| p.target).collect();
        used.sort_unstable();
        prop_assert_eq!(used, (0..objects).collect::<Vec<_>>());
        let sum: f64 = pairs.iter().map(|p| cost(p.query, p.target)).sum();
        let best = lowest(&cost, queries, objects, (1 << queries) - 1);
        prop_assert!((sum - best).abs() < 1e-4, "{} {}", sum, best);
    }

    #[test]
    fn a_batch_is_matched_as_its_images_alone(seed in 0u64..1_000_000, batch in 1usize..5, layers in 1usize..4) {
        let (queries, classes) = (12, 4);
        let predictions: Vec<_> = (0..layers as u64)
            .map(|l| (numbers(seed + l, batch * queries * classes), numbers(seed + 50 + l, batch * queries * 4)))
            .collect();
        let targets: Vec<_> = (0..batch).map(|i| random_targets(seed + 7 * i as u64, (seed as usize + 3 * i) % 8, classes)).collect();
        let all: Vec<_> = predictions.iter().map(|(logits, boxes)| Predictions { logits, boxes, classes }).collect();
        let together = Matcher::SMCA.match_layers(&all, &targets, 3).unwrap();
        for (l, (logits, boxes)) in predictions.iter().enumerate() {
            for i in 0..batch {
                let logits = &logits[i * queries * classes..(i + 1) * queries * classes];
                let boxes = &boxes[i * queries * 4..(i + 1) * queries * 4];
                for group in [0..4, 4..8, 8..12] {
                    let part = Predictions { logits: &logits[group.start * classes..group.end * classes], boxes: &boxes[group.start * 4..group.end * 4], classes };
                    let alone = Matcher::SMCA.match_layers(&[part], &targets[i..=i], 1).unwrap();
                    let alone: Vec<_> = alone[0][0].iter().map(|p| Pair { query: p.query + group.start, ..*p }).collect();
                    let here: Vec<_> = together[l][i].iter().copied().filter(|p| group.contains(&p.query)).collect();
                    prop_assert_eq!(&here, &alone);
                    prop_assert_eq!(here.len(), targets[i].labels.len().min(4));
                }
            }
        }
    }
}

#[test]
fn images_without_objects_have_no_pairs() {
    let (logits, predicted) = (numbers(1, 2 * 5 * 3), numbers(2, 2 * 5 * 4));
    let layer = Predictions { logits: &logits, boxes: &predicted, classes: 3 };
    let targets = [Targets::default(), random_targets(3, 2, 3)];
    let found = Matcher::DETR.match_layers(&[layer, layer], &targets, 1).unwrap();
    assert_eq!(found.iter().map(|l| l.iter().map(Vec::len).collect()).collect::<Vec<Vec<_>>>(), [[0, 2], [0, 2]]);
    assert_eq!(Matcher::DETR.match_layers(&[], &targets, 1).unwrap(), Vec::<Vec<Vec<Pair>>>::new());
}

#[test]
fn predictions_that_are_no_numbers_are_an_error_that_names_them() {
    for (matcher, targets) in [(Matcher::DETR, random_targets(3, 2, 3)), (Matcher::SMCA, Targets::default())] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (good_logits, good_boxes) = (numbers(1, 2 * 5 * 3), numbers(2, 2 * 5 * 4));
            let (mut logits, mut predicted) = (good_logits.clone(), good_boxes.clone());
            logits[5 * 3 + 7] = bad;
            predicted[4 * 4 + 1] = bad;
            let good = Predictions { logits: &good_logits, boxes: &good_boxes, classes: 3 };
            let targets = [targets.clone(), targets.clone()];
            let error = |layer| matcher.match_layers(&[good, layer], &targets, 1).unwrap_err().to_string();
            let text = error(Predictions { logits: &logits, ..good });
            assert!(text.contains("layer 1, image 1, query 2: the logit of class 1"), "{text}");
            let text = error(Predictions { boxes: &predicted, ..good });
            assert!(text.contains("layer 1, image 0, query 4: element 1 of the box"), "{text}");
        }
    }
}

#[test]
fn boxes_whose_areas_overflow_are_an_error() {
    let (logits, predicted) = (numbers(1, 6), [0.5, 0.5, 1e30, 1e30, 0.5, 0.5, 0.1, 0.1]);
    let layer = Predictions { logits: &logits, boxes: &predicted, classes: 3 };
    let found = Matcher::DETR.match_layers(&[layer], &[random_targets(3, 2, 3)], 1);
    assert!(matches!(found, Err(qdetr::Error::NotFinite(_))), "{found:?}");
}

#[test]
fn extreme_but_finite_predictions_are_matched() {
    let logits = vec![f32::MAX, -f32::MAX, 0.0, -f32::MAX, f32::MAX, -f32::MAX];
    let predicted = vec![0.5, 0.5, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0];
    let targets = [Targets { labels: vec![1, 0], boxes: vec![[0.5, 0.5, 0.0, 0.0]; 2] }];
    let layer = Predictions { logits: &logits, boxes: &predicted, classes: 3 };
    for matcher in [Matcher::DETR, Matcher::SMCA] {
        let found = matcher.match_layers(&[layer], &targets, 1).unwrap();
        assert_eq!(found[0][0], [Pair { query: 0, target: 1 }, Pair { query: 1, target: 0 }]);
    }
}

#[test]
#[should_panic(expected = "is not below 3")]
fn a_label_beyond_the_classes_is_a_programmers_mistake() {
    let (logits, predicted) = (numbers(1, 15), numbers(2, 20));
    let targets = [Targets { labels: vec![3], boxes: vec![[0.5; 4]] }];
    let _ = Matcher::DETR.match_layers(&[Predictions { logits: &logits, boxes: &predicted, classes: 3 }], &targets, 1);
}
