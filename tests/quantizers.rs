//! Quantizers against PyTorch's autograd, against a second implementation, written from the formulas alone, and against properties
//! that any must have.
//!
//! Differences of the forward, with which `tests/gradients.rs` checks all other ops, say nothing here: a code is a step
//! function, whose true derivative is 0 almost everywhere and whose straight-through gradient is another one by design.

mod common;

use common::gpu;
use proptest::prelude::*;
use qdetr::graph::check::noise;
use qdetr::graph::{Arena, Graph, Layout, Links, Params, Plan, PlanOptions, QuantizerArenas, Quantizers, Scratch, Values, Var, interpret};
use qdetr::kernels::quantize::{ALPHA_MIN, Levels, dequantize, quantize, quantizer_state};
use qdetr::kernels::{binary, reduce};
use qdetr::quant::{Method, Quantizer, Sign};
use qdetr::tensor::compare::{Tolerance, compare};
use qdetr::tensor::{DType, Host, TensorType};
use safetensors::{Dtype, SafeTensors};
use std::sync::Arc;

/// One quantizer's work, as the formulas say it, element by element in f64. Roundings to f32 that decide between codes
/// are written out.
struct Formulas {
    levels: Levels,
    alpha: f64,
    zero: f64,
}

/// What the formulas give for one element.
struct Element {
    code: i8,
    value: f64,
    d_x: f64,
    d_alpha: f64,
    d_zp: f64,
}

impl Formulas {
    fn new(levels: Levels, alpha: f32, zp: f32) -> Self {
        let zero = f64::from(zp).round_ties_even().clamp(f64::from(levels.low()), f64::from(levels.high()));
        Self { levels, alpha: f64::from(alpha.max(ALPHA_MIN)), zero }
    }

    fn element(&self, x: f32, d: f32) -> Element {
        let (low, high) = (f64::from(self.levels.low()), f64::from(self.levels.high()));
        let inverse = f64::from((1.0 / self.alpha) as f32);
        let product = f64::from((f64::from(x) * inverse) as f32);
        let u = f64::from((product + self.zero) as f32);
        let q = u.max(low).min(high).round_ties_even();
        let (inside, d) = (low <= u && u <= high, f64::from(d));
        let (d_x, d_alpha, d_zp) = if inside { (d, d * (q - u), 0.0) } else { (0.0, d * (q - self.zero), -self.alpha * d) };
        let code = (q - f64::from(self.levels.offset())) as i8;
        Element { code, value: self.alpha * (q - self.zero), d_x, d_alpha, d_zp }
    }
}

/// A quantizer on the twins or the GPU.
struct Run<'a> {
    levels: Levels,
    inner: usize,
    /// x, alpha, zp, and the gradient of the values.
    tensors: [&'a Host; 4],
}

const NAMES: [&str; 4] = ["x", "alpha", "zp", "d"];

impl Run<'_> {
    /// codes, values and d_x, d_alpha, d_zp of `Σ d · value`.
    fn graph(&self) -> (Graph, Values) {
        let mut g = Graph::new();
        let [x, alpha, zp, d] = [0, 1, 2, 3].map(|i| g.input(NAMES[i], self.tensors[i].ty()));
        let state = quantizer_state(&mut g, alpha, Some(zp), self.levels);
        let codes = quantize(&mut g, x, state, self.levels, self.inner);
        let to = g.ty(d).dtype;
        let values = dequantize(&mut g, codes, state, self.inner, to);
        let products = binary::mul(&mut g, values, d);
        let loss = reduce::total(&mut g, products);
        let gradients = g.backward(loss, &[x, alpha, zp]);
        for (name, var) in [("codes", codes), ("values", values)] {
            g.output(name, var);
        }
        for (name, gradient) in ["d_x", "d_alpha", "d_zp"].into_iter().zip(gradients) {
            g.output(name, gradient.expect("a gradient"));
        }
        (g, NAMES.iter().zip(self.tensors).map(|(name, host)| ((*name).to_owned(), host.clone())).collect())
    }

    fn twins(&self) -> Values {
        let (graph, inputs) = self.graph();
        interpret(&graph, &inputs, &Values::new())
    }

    fn gpu(&self) -> Values {
        let (graph, inputs) = self.graph();
        let params = Params::upload(gpu(), &Values::new()).expect("the device works");
        let options = PlanOptions { guards: true, ..PlanOptions::default() };
        let plan = Plan::compile(gpu(), &graph, &params, &mut Scratch::default(), options).expect("the device works");
        plan.call(&inputs).expect("the device works")
    }

    /// Compares results with the formulas; the largest gradient of a step size is returned, so that a test can see that there was one.
    fn check(&self, found: &Values) -> f64 {
        let [x, alpha, zp, d] = self.tensors.map(Host::to_f32);
        let groups = alpha.len();
        let (mut d_alpha, mut d_zp) = (vec![0f64; groups], vec![0f64; groups]);
        // Sums of so many terms of so large a size are only known so well.
        let mut sizes = vec![0f64; groups];
        let (codes, values, d_x) = (found["codes"].as_i8(), found["values"].to_f32(), found["d_x"].to_f32());
        for i in 0..x.len() {
            let group = if groups == 1 { 0 } else { i / self.inner % groups };
            let formulas = Formulas::new(self.levels, alpha[group], zp[group]);
            let e = formulas.element(x[i], d[i]);
            assert_eq!(codes[i], e.code, "the code of {} at {i}, alpha {}, zero {}", x[i], alpha[group], zp[group]);
            assert!((f64::from(values[i]) - e.value).abs() <= 1e-6 * e.value.abs(), "value {i}: {} for {}", values[i], e.value);
            assert_eq!(f64::from(d_x[i]), e.d_x, "d_x at {i}");
            d_alpha[group] += e.d_alpha;
            d_zp[group] += e.d_zp;
            sizes[group] += e.d_alpha.abs() + e.d_zp.abs();
        }
        let g = 1.0 / (x.len() as f64 * f64::from(self.levels.high())).sqrt();
        let close = |name: &str, expected: &[f64]| {
            for (group, (&found, &expected)) in found[name].to_f32().iter().zip(expected).enumerate() {
                let (found, expected, size) = (f64::from(found), g * expected, g * sizes[group]);
                assert!((found - expected).abs() <= 1e-6 * size + 1e-7, "{name} of {group}: {found}, the formulas say {expected}");
            }
        };
        close("d_alpha", &d_alpha);
        close("d_zp", &d_zp);
        d_alpha.iter().chain(&d_zp).fold(0.0, |a, b| a.max(b.abs()))
    }
}

/// Shapes, how many step sizes they have, and how many neighbours share one.
const SHAPES: [(&[usize], usize, usize); 7] = [
    (&[3, 5, 7], 1, 1),
    (&[9, 64], 9, 64),
    (&[2, 17, 32], 4, 8),
    (&[2, 4, 5, 12], 4, 60),
    (&[3, 7, 10], 10, 1),
    (&[2, 3000], 1, 1),
    (&[1], 1, 1),
];

fn scaled(shape: &[usize], seed: u64, by: impl Fn(f32) -> f32) -> Host {
    Host::f32(shape, noise(shape, seed).to_f32().iter().map(|&v| by(v)).collect())
}

#[test]
fn twins_and_gpu_follow_the_formulas_on_every_granularity_and_width() {
    for (i, (shape, groups, inner)) in SHAPES.into_iter().enumerate() {
        for bits in 2..=8 {
            for signed in [false, true] {
                let (levels, seed) = (Levels::new(bits, signed), 1000 * i as u64 + u64::from(bits));
                let half = (1 << (bits - 1)) as f32;
                // About a third of the elements lie outside the levels.
                let x = scaled(shape, seed, |v| 0.4 * half * v);
                let alpha = scaled(&[groups], seed + 1, |v| 0.3 + 0.1 * v);
                let zp = scaled(&[groups], seed + 2, |v| if signed { 0.8 * half * v } else { half + half * v });
                let d = noise(shape, seed + 3);
                let run = Run { levels, inner, tensors: [&x, &alpha, &zp, &d] };
                let largest = run.check(&run.twins());
                assert!(shape == [1] || largest > 0.0);
                if bits % 3 == 2 {
                    run.check(&run.gpu());
                }
            }
        }
    }
}

#[test]
fn a_zero_point_beyond_the_levels_and_a_step_size_below_zero_are_moved_and_keep_their_gradients() {
    let levels = Levels::new(4, false);
    let x = scaled(&[32], 1, |v| 20.0 * v);
    let d = noise([32], 2);
    for (alpha, zp) in [(1.0, 40.0), (1.0, -3.0), (0.0, 8.0), (-0.5, 8.0)] {
        let (alpha, zp) = (Host::f32([1], vec![alpha]), Host::f32([1], vec![zp]));
        let run = Run { levels, inner: 1, tensors: [&x, &alpha, &zp, &d] };
        assert!(run.check(&run.twins()) > 0.0);
        assert!(run.check(&run.gpu()) > 0.0);
    }
}

#[test]
fn a_batch_of_two_halves_counts_all_its_elements_in_the_scale() {
    let levels = Levels::new(3, true);
    let gradient = |batch: usize| {
        let x = Host::f32([batch, 6], [0.3, -0.2, 1.0, 9.0, -9.0, 0.05].repeat(batch));
        let d = Host::f32([batch, 6], vec![1.0; 6 * batch]);
        let (alpha, zp) = (Host::f32([1], vec![0.5]), Host::f32([1], vec![0.0]));
        Run { levels, inner: 1, tensors: [&x, &alpha, &zp, &d] }.twins()["d_alpha"].to_f32()[0]
    };
    // Twice the sum, under a scale of 1 / √2.
    assert!((gradient(2) / gradient(1) - std::f32::consts::SQRT_2).abs() < 1e-5);
}

#[test]
fn codes_in_f16_are_those_of_the_f32_they_are_read_as() {
    let levels = Levels::new(4, true);
    let x = scaled(&[4, 33], 5, |v| 3.0 * v).cast(DType::F16);
    let (alpha, zp) = (Host::f32([1], vec![0.3]), Host::f32([1], vec![1.0]));
    let d = noise([4, 33], 6).cast(DType::F32);
    let full = Host::f32([4, 33], x.to_f32().into_owned());
    let run = |x| Run { levels, inner: 1, tensors: [x, &alpha, &zp, &d] };
    assert_eq!(run(&x).twins()["codes"], run(&full).twins()["codes"]);
    if gpu().capabilities().f16 {
        let found = run(&x).gpu();
        assert_eq!(found["codes"], run(&full).twins()["codes"]);
        assert_eq!(found["d_x"].dtype(), DType::F16);
    }
}

/// A tensor of the file that `tests/golden/quantizer.py` writes.
fn golden(file: &SafeTensors<'_>, name: &str) -> Option<Host> {
    let view = file.tensor(name).ok()?;
    Some(match view.dtype() {
        Dtype::F32 => Host::f32(view.shape(), bytemuck::pod_collect_to_vec(view.data())),
        Dtype::I8 => Host::i8(view.shape(), bytemuck::pod_collect_to_vec(view.data())),
        other => panic!("{name} is {other:?}"),
    })
}

#[test]
fn codes_values_and_gradients_are_those_of_pytorch() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/golden/quantizer.safetensors");
    let bytes = std::fs::read(path).expect("the golden file; see assets/golden/README.md");
    let file = SafeTensors::deserialize(&bytes).expect("the golden file");
    let (_, metadata) = SafeTensors::read_metadata(&bytes).expect("the golden file");
    let cases = &metadata.metadata().as_ref().expect("metadata")["cases"];
    let cases: serde_json::Map<String, serde_json::Value> = serde_json::from_str(cases).expect("cases as JSON");
    assert!(cases.len() > 80, "only {} cases", cases.len());
    for (case, attributes) in &cases {
        let number = |name: &str| attributes[name].as_u64().expect("a number") as usize;
        let get = |tensor: &str| golden(&file, &format!("{case}/{tensor}"));
        let wanted = |tensor: &str| get(tensor).unwrap_or_else(|| panic!("{case} has no {tensor}"));
        let levels = Levels::new(number("bits") as u32, attributes["signed"].as_bool().expect("a bool"));
        let [x, alpha, d] = ["x", "alpha", "d"].map(wanted);
        let zp = get("zp").unwrap_or_else(|| Host::zeros(alpha.ty()));
        let run = Run { levels, inner: number("inner"), tensors: [&x, &alpha, &zp, &d] };
        for (what, found) in [("twins", run.twins()), ("GPU", run.gpu())] {
            for name in ["codes", "values", "d_x", "d_alpha", "d_zp"] {
                let Some(expected) = get(name) else {
                    assert!(name == "d_zp" && get("zp").is_none(), "{case} has no {name}");
                    continue;
                };
                // Gradients of step sizes are sums whose terms cancel.
                let largest = if name == "codes" { 0.0 } else { expected.to_f32().iter().fold(0f32, |a, v| a.max(v.abs())) };
                let tolerance = Tolerance { absolute: 1e-5 * largest, relative: 1e-5 };
                compare(&found[name], &expected, tolerance).unwrap_or_else(|e| panic!("{case}, {what}, {name}: {e}"));
            }
        }
        check_start(case, levels, &x, &wanted("lsq_alpha"));
    }
}

/// The step size that LSQ's rule starts from.
fn check_start(case: &str, levels: Levels, x: &Host, expected: &Host) {
    let sign = if levels.signed { Sign::Signed } else { Sign::Unsigned };
    let quantizer = Quantizer { sign, ..Quantizer::activations(levels.bits, Method::Lsq) };
    let steps = quantizer.start(x.shape(), &x.to_f32()).expect("finite data");
    // Nothing but zeros starts from 1.
    let expected = if expected.to_f32()[0] == 0.0 { 1.0 } else { expected.to_f32()[0] };
    assert!((steps.alpha[0] / expected - 1.0).abs() < 1e-5, "{case}: starts from {}, PyTorch from {expected}", steps.alpha[0]);
}

/// Two layers' worth of quantizers: parameters in the arena and one outside of it, with and without zero points, a step size that two
/// tensors share, and the gradients of all.
fn several_quantizers() -> (Graph, Values, Layout) {
    let mut g = Graph::new();
    let mut params = Values::new();
    let mut parts = Vec::new();
    let state = |g: &mut Graph, params: &mut Values, name: &str, groups: usize, zero_points: bool, levels: Levels| {
        let param = |g: &mut Graph, params: &mut Values, name: String, reach: f32, centre: f32| {
            let host = scaled(&[groups], params.len() as u64, |v| centre + reach * v);
            params.insert(name.clone(), host);
            g.param(&name, TensorType::f32([groups]))
        };
        let alpha = param(g, params, format!("{name}.alpha"), 0.05, 0.2);
        let zp = zero_points.then(|| param(g, params, format!("{name}.zero_point"), 2.0, 0.0));
        quantizer_state(g, alpha, zp, levels)
    };
    for (i, (name, groups)) in [("w", 300), ("x", 1), ("fixed", 1), ("heads", 4), ("both", 1)].into_iter().enumerate() {
        let levels = Levels::new(2 + i as u32, i % 2 == 0);
        let state = state(&mut g, &mut params, name, groups, i > 0, levels);
        let is_weight = name == "w";
        for turn in 0..1 + usize::from(name == "both") {
            let shape: &[usize] = if is_weight { &[300, 42] } else { &[2, 300, 40] };
            let host = scaled(shape, (10 * i + turn) as u64, |v| 20.0 * v);
            let x = if is_weight { g.param("w.weight", host.ty()) } else { g.constant(host.clone()) };
            if is_weight {
                params.insert("w.weight".to_owned(), host);
            }
            let inner = if is_weight { 42 } else { 10 };
            let codes = quantize(&mut g, x, state, levels, inner);
            let values = dequantize(&mut g, codes, state, inner, DType::F32);
            let weights = g.constant(scaled(shape, (100 + 10 * i + turn) as u64, |v| v));
            let product = binary::mul(&mut g, values, weights);
            parts.push(reduce::total(&mut g, product));
        }
    }
    let loss = parts.into_iter().reduce(|a, b| binary::add(&mut g, a, b)).expect("parts");
    let trained: Vec<(String, Var)> = g.params().iter().map(|(name, &var)| (name.clone(), var)).collect();
    g.next_segment();
    let gradients = g.backward(loss, &trained.iter().map(|&(_, var)| var).collect::<Vec<_>>());
    for ((name, _), gradient) in trained.iter().zip(gradients) {
        g.output(&format!("grad.{name}"), gradient.expect("a gradient"));
    }
    let in_arena = |(name, host): (&String, &Host)| (!name.starts_with("fixed")).then(|| (name.clone(), host.ty()));
    let layout = Layout::new(params.iter().filter_map(in_arena));
    (g, params, layout)
}

#[test]
fn many_quantizers_share_three_launches() {
    let (graph, params, layout) = several_quantizers();
    let shared = Quantizers::share(&graph, &layout, "grad.");
    let count = |g: &Graph, op: &str| g.nodes().iter().filter(|n| n.op.name() == op).count();
    assert_eq!([count(&graph, "quantizer_state"), count(&graph, "quantizer_state_backward")], [5, 5]);
    // What is not in the arena stays, and so do the gradients of what two tensors share.
    assert_eq!([count(&shared.graph, "quantizer_state"), count(&shared.graph, "quantizer_state_backward")], [1, 2]);
    assert_eq!(["quantizer_states", "arena_codes", "state_gradients"].map(|op| count(&shared.graph, op)), [1; 3]);
    assert_eq!(["quantize", "dequantize"].map(|op| [count(&graph, op), count(&shared.graph, op)]), [[6, 5]; 2]);

    let layout = Arc::new(layout);
    let [weights, gradients] = ["weights", "gradients"].map(|label| Arena::new(gpu(), label, &layout).expect("an arena"));
    weights.write(gpu(), &params);
    let mut links = weights.links("");
    links.extend(gradients.links("grad."));
    let fixed: Values = params.clone().into_iter().filter(|(name, _)| !layout.contains(name)).collect();
    let fixed = Params::upload(gpu(), &fixed).expect("room");
    let run = |graph: &Graph, links: &Links| {
        let plan = Plan::compile_linked(gpu(), graph, &fixed, links, &mut Scratch::default(), PlanOptions::default()).expect("a plan");
        let beside = plan.call(&Values::new()).expect("a run");
        let mut found = gradients.read(gpu()).expect("a read");
        gradients.write(gpu(), &found.iter().map(|(name, host)| (name.clone(), Host::zeros(host.ty()))).collect());
        found.extend(beside);
        found
    };
    let single = run(&graph, &links);
    let arenas = QuantizerArenas::new(gpu(), &shared, std::iter::empty()).expect("room");
    // What lies alike is one, as for the same model on pictures of another size.
    let again = QuantizerArenas::new(gpu(), &shared, std::iter::once(&arenas)).expect("room");
    assert_eq!(QuantizerArenas::bytes([&arenas, &again].into_iter()), QuantizerArenas::bytes(std::iter::once(&arenas)));
    links.extend(arenas.links(&weights, &gradients));
    let found = run(&shared.graph, &links);
    assert!(single.len() == found.len() && single.values().all(|host| host.to_f32().iter().any(|&v| v != 0.0)), "{single:?}");
    for (name, expected) in &single {
        compare(&found[name], expected, Tolerance::of(1e-4)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_twins_follow_the_formulas_on_anything(
        bits in 2u32..=8,
        signed in any::<bool>(),
        x in prop::collection::vec(prop_oneof![-300f32..300.0, (-300i32..300).prop_map(|i| i as f32 * 0.25), Just(0.0), -1e30f32..1e30], 1..60),
        alpha in prop_oneof![1e-3f32..10.0, (-8i32..4).prop_map(|e| (e as f32).exp2()), -1f32..1e-6],
        zp in prop_oneof![-300f32..300.0, (-20i32..20).prop_map(|i| i as f32 * 0.5)],
    ) {
        let n = x.len();
        let (x, alpha, zp, d) = (Host::f32([n], x), Host::f32([1], vec![alpha]), Host::f32([1], vec![zp]), noise([n], 1));
        let run = Run { levels: Levels::new(bits, signed), inner: 1, tensors: [&x, &alpha, &zp, &d] };
        run.check(&run.twins());
    }

    #[test]
    fn a_quantizer_keeps_its_own_values_and_rounds_by_half_a_step_at_most(
        bits in 2u32..=8,
        signed in any::<bool>(),
        share in -1.2f32..1.2,
        alpha in 1e-3f32..10.0,
        zp in -130f32..260.0,
    ) {
        let levels = Levels::new(bits, signed);
        let x = share * alpha * levels.high() as f32;
        let (alpha_host, zp) = (Host::f32([1], vec![alpha]), Host::f32([1], vec![zp]));
        let once = |x: f32| {
            let (x, d) = (Host::f32([1], vec![x]), Host::f32([1], vec![1.0]));
            let found = Run { levels, inner: 1, tensors: [&x, &alpha_host, &zp, &d] }.twins();
            (found["codes"].as_i8()[0], found["values"].to_f32()[0], found["d_x"].to_f32()[0])
        };
        let (code, value, d_x) = once(x);
        prop_assert_eq!(once(value).0, code, "the value of a code has that code");
        prop_assert_eq!(once(0.0).1, 0.0, "zero is a value");
        if d_x != 0.0 {
            prop_assert!((value - x).abs() <= 0.5001 * alpha);
        }
    }
}
