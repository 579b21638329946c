//! AdamW on the GPU: PyTorch's numbers, skipped steps, scaled losses, and going on where another run ended.

mod common;

use common::gpu;
use qdetr::graph::{Arena, Values};
use qdetr::nn::{Init, ParamSpec};
use qdetr::rng::HashedUniform;
use qdetr::tensor::compare::{Tolerance, compare_floats};
use qdetr::tensor::{Host, Shape};
use qdetr::train::groups::{GroupConfig, Groups, Rule};
use qdetr::train::optimizer::{Found, Optimizer, OptimizerOptions, Update};
use qdetr::train::schedule::{Decay, Schedule};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::Path;

/// Shapes and scales of `tests/golden/optimizer.py`.
const SHAPES: [(&str, &[usize]); 3] = [("a.weight", &[3, 43]), ("backbone.w", &[65, 2]), ("z.bias", &[64])];
const SCALES: [f32; 12] = [1.0, 0.01, 3.0, 0.002, 0.5, 1e-4, 20.0, 0.05, 1.0, 0.01, 0.3, 1e-3];

fn hashed(name: &str, shape: &[usize], scale: f32) -> Host {
    let (numbers, count) = (HashedUniform::new(name), shape.iter().product::<usize>() as u32);
    Host::f32(shape, (0..count).map(|i| scale * numbers.at(i)).collect())
}

fn start() -> Values {
    SHAPES.iter().map(|&(name, shape)| (name.to_owned(), hashed(name, shape, 1.0))).collect()
}

fn gradient(step: usize, scale: f32) -> Values {
    SHAPES.iter().map(|&(name, shape)| (name.to_owned(), hashed(&format!("{name}/{step}"), shape, scale * SCALES[step]))).collect()
}

fn groups() -> Groups {
    let specs: BTreeMap<String, ParamSpec> = SHAPES
        .iter()
        .map(|&(name, shape)| (name.to_owned(), ParamSpec { shape: Shape::new(shape), init: Init::Constant(0.0), buffer: false }))
        .collect();
    let rules = vec![Rule { name: "backbone".into(), lr: Some(0.001), weight_decay: None }];
    Groups::new(&GroupConfig { lr: 0.01, weight_decay: 0.1, decay_vectors: false, rules, frozen: vec![] }, &specs).expect("groups")
}

/// An optimizer with its arenas.
struct Run {
    optimizer: Optimizer,
    weights: Arena,
    gradients: Arena,
    schedule: Schedule,
}

impl Run {
    fn new() -> Self {
        let options = OptimizerOptions { betas: [0.9, 0.99], clip: Some(0.5), average: Some(0.9), ..OptimizerOptions::default() };
        let groups = groups();
        let arena = |label: &str| Arena::new(gpu(), label, groups.layout()).expect("the device works");
        let (weights, gradients) = (arena("weights"), arena("gradients"));
        weights.write(gpu(), &start());
        let optimizer = Optimizer::new(gpu(), options, groups.clone(), [&weights, &gradients], []).expect("the device works");
        optimizer.reset(gpu(), &start());
        Self { optimizer, weights, gradients, schedule: Schedule { warmup: 0, decay: Decay::MultiStep { at: vec![0.8], factor: 0.1 } } }
    }

    /// A step with a given gradient; step 8 is the first behind four fifths of ten.
    fn step(&self, step: usize, gradient: &Values, loss_scale: f32) -> Found {
        self.gradients.write(gpu(), gradient);
        let factor = self.schedule.factor(step as u64, 10);
        self.optimizer.update(Update { step: step as u64, factor, loss_scale }).expect("the device works")
    }

    /// Everything that the next step depends on.
    fn all(&self) -> (Values, Values) {
        (read(&self.weights), self.optimizer.state(gpu()).expect("the device works"))
    }
}

fn read(arena: &Arena) -> Values {
    arena.read(gpu()).expect("the device works")
}

fn close(what: &str, found: &[f32], expected: &[f32]) {
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let tolerance = Tolerance { absolute: 2e-6 * largest, relative: 2e-6 };
    compare_floats(found, expected, tolerance).unwrap_or_else(|e| panic!("{what}: {e}"));
}

#[test]
fn twelve_steps_are_pytorchs() {
    let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/golden/train/optimizer.safetensors")).expect("the golden");
    let golden = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let floats = |name: &str| -> Vec<f32> {
        let tensor = golden.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        tensor.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect()
    };
    let (run, norms) = (Run::new(), floats("grad_norm"));
    for step in 0..SCALES.len() {
        let report = run.step(step, &gradient(step, 1.0), 1.0);
        assert_eq!((report.done, report.skipped), (step as u64 + 1, 0));
        close("grad_norm", &[report.grad_norm.expect("finite")], &norms[step..=step]);
        for (name, host) in read(&run.weights) {
            let expected = floats(&format!("params/{name}"));
            let n = host.shape().len();
            close(&format!("{name} behind step {step}"), &host.to_f32(), &expected[step * n..(step + 1) * n]);
        }
    }
    for (name, host) in run.all().1 {
        let (kind, name) = name.split_once('.').unwrap_or((&name, ""));
        let golden = match kind {
            "first" => "m",
            "second" => "v",
            "average" => kind,
            _ => continue,
        };
        close(name, &host.to_f32(), &floats(&format!("{golden}/{name}")));
    }
}

#[test]
fn a_gradient_that_is_not_finite_skips_the_step_and_counts_it() {
    let (run, undisturbed) = (Run::new(), Run::new());
    for step in 0..4 {
        undisturbed.step(step, &gradient(step, 1.0), 1.0);
        run.step(step, &gradient(step, 1.0), 1.0);
        let before = run.all();
        for (nth, bad) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
            let mut wild = gradient(step, 1.0);
            let mut values = wild["z.bias"].to_f32().into_owned();
            values[63] = bad;
            wild.insert("z.bias".into(), Host::f32([64], values));
            let report = run.step(step, &wild, 1.0);
            let skipped = (3 * step + nth + 1) as u64;
            assert_eq!((report.grad_norm, report.done, report.skipped), (None, step as u64 + 1, skipped));
        }
        let after = run.all();
        assert_eq!(before.0, after.0, "parameters");
        assert!(
            before
                .1
                .iter()
                .filter(|(name, _)| name.starts_with("first.") || name.starts_with("second."))
                .all(|(name, v)| after.1[name] == *v)
        );
    }
    assert_eq!(run.all().0, undisturbed.all().0, "the bias corrections stand still in a skipped step");
}

#[test]
fn a_scaled_loss_gives_the_same_bits() {
    let (plain, scaled) = (Run::new(), Run::new());
    for step in 0..SCALES.len() {
        let expected = plain.step(step, &gradient(step, 1.0), 1.0);
        assert_eq!(scaled.step(step, &gradient(step, 65_536.0), 65_536.0), expected);
    }
    assert_eq!(plain.all(), scaled.all());
}

#[test]
fn a_run_that_goes_on_where_another_ended_has_the_same_bits() {
    let whole = Run::new();
    let first = Run::new();
    for step in 0..5 {
        whole.step(step, &gradient(step, 1.0), 1.0);
        first.step(step, &gradient(step, 1.0), 1.0);
    }
    let (params, memory) = first.all();
    let second = Run::new();
    second.optimizer.restore(gpu(), &params, &memory).expect("the same run");
    for step in 5..SCALES.len() {
        let expected = whole.step(step, &gradient(step, 1.0), 1.0);
        assert_eq!(second.step(step, &gradient(step, 1.0), 1.0), expected);
    }
    assert_eq!(whole.all(), second.all());
}

#[test]
fn a_checkpoint_of_another_run_is_refused_and_changes_nothing() {
    let run = Run::new();
    run.step(0, &gradient(0, 1.0), 1.0);
    let (params, memory) = run.all();
    let refused = |params: &Values, memory: &Values| run.optimizer.restore(gpu(), params, memory).expect_err("another run").to_string();
    let mut lacking = memory.clone();
    lacking.remove("second.a.weight");
    assert!(refused(&start(), &lacking).contains("has no `second.a.weight`"));
    let mut other = params.clone();
    other.insert("z.bias".into(), Host::f32([8, 8], vec![0.0; 64]));
    assert!(refused(&other, &memory).contains("`z.bias` is f32[8, 8] in the checkpoint; this run has f32[64]"));
    assert_eq!(run.all(), (params, memory));
}

#[test]
fn settings_that_cannot_be_are_told() {
    let told = |config: OptimizerOptions| config.validate().expect_err("a mistake").to_string();
    let good = OptimizerOptions::default();
    assert!(good.validate().is_ok());
    assert!(told(OptimizerOptions { betas: [0.9, 1.0], ..good }).contains("`betas`"));
    assert!(told(OptimizerOptions { epsilon: 0.0, ..good }).contains("`epsilon`"));
    assert!(told(OptimizerOptions { clip: Some(0.0), ..good }).contains("`clip` is 0"));
    assert!(told(OptimizerOptions { average: Some(1.0), ..good }).contains("`average`"));
}
