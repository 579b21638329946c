//! Q-DETR's distillation against PyTorch: query matching, its loss, and distribution alignment, on the device.

mod common;

use common::gpu;
use qdetr::graph::{Graph, Params, Plan, PlanOptions, Scratch, Values};
use qdetr::kernels::layer_norm::distribution_alignment;
use qdetr::kernels::loss::{distance, mean_square};
use qdetr::kernels::{binary, reduce};
use qdetr::rng::HashedUniform;
use qdetr::tensor::Host;
use qdetr::tensor::compare::{Tolerance, compare};
use qdetr::train::distill::{Mean, Partners, QueryMatcher};
use qdetr::train::matcher::Targets;
use serde_json::Value;
use std::path::Path;

const TOLERANCE: Tolerance = Tolerance { absolute: 2e-6, relative: 2e-5 };

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/golden/train/distill.json");
    serde_json::from_slice(&std::fs::read(path).expect("the golden is in assets")).expect("JSON")
}

fn floats(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(list) => list.iter().flat_map(floats).collect(),
        number => vec![number.as_f64().expect("a number") as f32],
    }
}

fn hashed(name: &str, n: usize) -> Vec<f32> {
    let numbers = HashedUniform::new(name);
    (0..n as u32).map(|i| numbers.at(i)).collect()
}

/// Runs a graph on the device.
fn run(graph: &Graph, inputs: &Values) -> Values {
    let params = Params::upload(gpu(), &Values::new()).expect("the device works");
    let plan = Plan::compile(gpu(), graph, &params, &mut Scratch::default(), PlanOptions::default()).expect("the device works");
    plan.call(inputs).expect("the device works")
}

#[track_caller]
fn close(what: &str, found: &Host, expected: &[f32]) {
    let expected = Host::f32(found.shape().dims(), expected.to_vec());
    compare(found, &expected, TOLERANCE).unwrap_or_else(|e| panic!("{what}: {e}"));
}

/// The boxes of all images of a case.
fn boxes(case: &Value, of: &str) -> Vec<f32> {
    case["images"].as_array().expect("images").iter().flat_map(|image| floats(&image[of])).collect()
}

fn matched(case: &Value) -> Partners {
    let objects = |image: &Value| {
        let boxes: Vec<[f32; 4]> = floats(&image["objects"]).as_chunks().0.to_vec();
        Targets { labels: vec![0; boxes.len()], boxes }
    };
    let targets: Vec<Targets> = case["images"].as_array().expect("images").iter().map(objects).collect();
    let matcher = QueryMatcher { tau: case["tau"].as_f64().expect("tau") as f32, ..QueryMatcher::Q_DETR };
    matcher.match_batch(&boxes(case, "student"), &boxes(case, "teacher"), &targets, Mean::Queries).expect("finite boxes")
}

#[test]
fn queries_are_matched_as_the_paper_says() {
    let golden = golden();
    let cases = golden["queries"].as_array().expect("cases");
    assert!(cases.len() >= 12);
    for case in cases {
        let (name, found, kept) = (&case["name"], matched(case), case["kept"].as_u64().expect("a count") as usize);
        let expected = boxes(case, "partners");
        assert_eq!((found.kept, found.teacher.shape().len()), (kept, expected.len()), "{name}");
        for (j, partner) in expected.into_iter().enumerate() {
            let wanted = if partner < 0.0 { (0, 0.0) } else { (partner as u32, 1.0 / kept as f32) };
            assert_eq!((found.teacher.as_u32()[j], found.weight.to_f32()[j]), wanted, "{name}: query {j} of the batch");
        }
    }
}

/// Features of student and teacher, as `tests/golden/distill.py` makes them.
fn features(case: &Value, partners: &Partners) -> [Host; 2] {
    let (name, channels) = (case["name"].as_str().expect("a name"), case["channels"].as_u64().expect("a count") as usize);
    let [images, students] = [0, 1].map(|i| partners.teacher.shape().dims()[i]);
    let teachers = boxes(case, "teacher").len() / 4 / images;
    let mut student = hashed(&format!("{name}/student"), images * students * channels);
    let teacher = hashed(&format!("{name}/teacher"), images * teachers * channels);
    if case["equal"] == true {
        let first = partners.weight.to_f32().iter().position(|&w| w > 0.0).expect("a query is kept");
        let at = (first / students * teachers + partners.teacher.as_u32()[first] as usize) * channels;
        student[first * channels..(first + 1) * channels].copy_from_slice(&teacher[at..at + channels]);
    }
    [Host::f32([images, students, channels], student), Host::f32([images, teachers, channels], teacher)]
}

#[test]
fn the_distance_of_matched_features_and_its_gradient_are_pytorchs() {
    for case in golden()["queries"].as_array().expect("cases") {
        let partners = matched(case);
        let [student, teacher] = features(case, &partners);
        let mut g = Graph::new();
        let given = [("student", student), ("teacher", teacher), ("partner", partners.teacher), ("weight", partners.weight)];
        let [s, t, partner, weight] = [0, 1, 2, 3].map(|i| g.input(given[i].0, given[i].1.ty()));
        let rows = distance(&mut g, s, t, partner, weight);
        let loss = reduce::total(&mut g, rows);
        let d_student = g.backward(loss, &[s])[0].expect("a gradient");
        g.output("loss", loss);
        g.output("d_student", d_student);
        let found = run(&g, &given.map(|(name, host)| (name.to_owned(), host)).into());
        for name in ["loss", "d_student"] {
            close(&format!("{}: {name}", case["name"]), &found[name], &floats(&case[name]));
        }
    }
}

#[test]
fn alignment_and_its_gradients_are_pytorchs() {
    let golden = golden();
    let cases = golden["alignment"].as_array().expect("cases");
    assert!(cases.len() >= 2);
    for case in cases {
        let shape: Vec<usize> = floats(&case["shape"]).into_iter().map(|n| n as usize).collect();
        let [batch, tokens, heads, depth] = shape[..] else { panic!("{shape:?}") };
        let (whole, n) = ([batch, tokens, heads * depth], batch * tokens * heads * depth);
        let moved = |name: &str, n: usize, by: f32, times: f32| hashed(name, n).into_iter().map(|v| v * times + by).collect();
        let x = Host::f32(whole, moved("da/x", n, 0.5, 3.0));
        let [gamma, beta] = [("da/gamma", 1.0), ("da/beta", 0.0)].map(|(name, by)| Host::f32([depth], moved(name, depth, by, 1.0)));
        let mut g = Graph::new();
        let given = [("x", x), ("gamma", gamma), ("beta", beta)];
        let wanted = [0, 1, 2].map(|i| g.input(given[i].0, given[i].1.ty()));
        let y = distribution_alignment(&mut g, wanted[0], wanted[1], wanted[2]);
        let d_y = g.constant(Host::f32(whole, hashed("da/d_y", n)));
        let product = binary::mul(&mut g, y, d_y);
        let loss = reduce::total(&mut g, product);
        let gradients = g.backward(loss, &wanted);
        g.output("y", y);
        for (name, gradient) in ["d_x", "d_gamma", "d_beta"].into_iter().zip(gradients) {
            g.output(name, gradient.expect("a gradient"));
        }
        let found = run(&g, &given.map(|(name, host)| (name.to_owned(), host)).into());
        for name in ["y", "d_x", "d_gamma", "d_beta"] {
            close(&format!("{shape:?}: {name}"), &found[name], &floats(&case[name]));
        }
    }
}

#[test]
fn the_mean_square_teaches_the_student_alone() {
    let (shape, n) = ([2, 5, 12], 120);
    let [s, t] = ["student", "teacher"].map(|name| Host::f32(shape, hashed(name, n)));
    let mut g = Graph::new();
    let [student, teacher] = ["student", "teacher"].map(|name| g.input(name, s.ty()));
    let loss = mean_square(&mut g, student, teacher);
    let gradients = g.backward(loss, &[student, teacher]);
    assert!(gradients[1].is_none());
    g.output("loss", loss);
    g.output("d_student", gradients[0].expect("a gradient"));
    let found = run(&g, &[("student".to_owned(), s.clone()), ("teacher".to_owned(), t.clone())].into());
    let differences: Vec<f32> = s.to_f32().iter().zip(t.to_f32().iter()).map(|(s, t)| s - t).collect();
    close("loss", &found["loss"], &[differences.iter().map(|d| d * d).sum::<f32>() / n as f32]);
    close("gradient", &found["d_student"], &differences.iter().map(|d| 2.0 * d / n as f32).collect::<Vec<_>>());
}
