//! Gradients of the op table: what the reverse walk derives, run on the CPU twins, against differences of the forward twins;
//! and the GPU against the twins on the same graphs.

mod common;

use common::gpu;
use qdetr::gpu::{Capabilities, Dispatch};
use qdetr::graph::check::{Case, noise};
use qdetr::graph::{Graph, Io, Op, Params, Plan, PlanOptions, Scratch, Values, Var, interpret};
use qdetr::kernels::conv::Conv2d;
use qdetr::kernels::depthwise::Depthwise;
use qdetr::kernels::epilogue::Epilogue;
use qdetr::kernels::linear::Linear;
use qdetr::kernels::{TABLE, binary, reduce};
use qdetr::tensor::compare::{Tolerance, compare};
use qdetr::tensor::{DType, Host, TensorType};
use std::any::Any;
use std::collections::BTreeMap;

/// Ops with a gradient, and the least number of elements that differences must have confirmed.
const DIFFERENTIABLE: &[(&str, usize)] = &[
    ("binary", 200),
    ("box_loss", 60),
    ("column_sums", 60),
    ("concat", 200),
    ("conv", 100),
    ("cross_entropy", 40),
    ("depthwise", 200),
    ("distance", 150),
    ("dropout", 80),
    ("focal", 40),
    ("layer_norm", 200),
    ("linear", 100),
    ("max_pool", 60),
    ("mix", 200),
    ("scale_shift", 150),
    ("scores", 200),
    ("slice", 100),
    ("softmax", 80),
    ("spread_rows", 60),
    ("unary", 150),
];

/// Float inputs that are data and have no gradient.
const DATA: &[(&str, &[usize])] = &[("box_loss", &[1, 2]), ("cross_entropy", &[2]), ("distance", &[1, 3]), ("focal", &[2])];

/// Ops without a gradient, and why.
const WITHOUT: &[(&str, &str)] = &[
    ("accumulate", "optimizer"),
    ("adamw", "optimizer"),
    ("arena_codes", "as quantize, of many tensors at once; it appears behind the backward"),
    ("arena_backward", "backward"),
    ("arena_scales", "as integer_scale, of many products at once; it appears behind the backward"),
    ("arena_sums", "backward"),
    ("attention", "for inference; training materializes the attention map"),
    ("average", "optimizer"),
    ("binary_codes", "appears when graphs are fused"),
    ("box_loss_backward", "backward"),
    ("code_pool", "of integers; it appears when graphs are fused"),
    ("conv_image_gradient", "backward"),
    ("conv_weight_gradient", "backward"),
    ("control", "optimizer"),
    ("cross_entropy_backward", "backward"),
    ("depthwise_input_gradient", "backward"),
    ("depthwise_weight_gradient", "backward"),
    ("dequantize", "of integers; the gradient of codes is that of their values"),
    ("distance_backward", "backward"),
    ("dropout_codes", "appears when graphs are fused"),
    ("focal_backward", "backward"),
    ("frozen_norm", "its inputs are frozen"),
    ("integer_attention", "appears when graphs are fused"),
    ("integer_conv", "codes have no differences; tests/integer.rs compares with products of floats"),
    ("integer_depthwise", "codes have no differences; tests/integer.rs compares with products of floats"),
    ("integer_linear", "codes have no differences; tests/integer.rs compares with products of floats"),
    ("integer_linear_norm", "appears when graphs are fused"),
    ("integer_norm", "appears when graphs are fused"),
    ("integer_scale", "of quantizers' states, which have none; that of the bias is in tests/integer.rs"),
    ("integer_weight_gradient", "backward"),
    ("layer_norm_backward", "backward"),
    ("layer_norm_codes", "appears when graphs are fused"),
    ("matmul", "backward"),
    ("integer_mix", "of integers; head_codes.rs compares with the gradients of the values"),
    ("integer_scores", "as integer_mix"),
    ("mask_extent", "of integers"),
    ("mask_resize", "of integers"),
    ("max_pool_backward", "backward"),
    ("max_pool_codes", "appears when graphs are fused"),
    ("normalize", "of integers"),
    ("prior_backward", "backward"),
    ("quantize", "straight-through: a step function's differences are 0 or anything; tests/quantizers.rs has the formulas"),
    ("quantize_backward", "backward"),
    ("quantizer_state", "straight-through, as quantize"),
    ("quantizer_state_backward", "backward"),
    ("quantizer_states", "as quantizer_state, many at once; it appears behind the backward"),
    ("probe", "measures the device"),
    ("recode", "of integers; it appears when graphs are fused"),
    ("sine_position", "of integers"),
    ("softmax_backward", "backward"),
    ("softmax_codes", "appears when graphs are fused"),
    ("square_sums", "optimizer"),
    ("state_gradients", "backward"),
    ("unary_backward", "backward"),
    ("value_mix", "backward"),
    ("value_scores", "backward"),
];

/// Step of the differences: a power of two, so that `x ± step` is exact.
const STEP: f32 = 1.0 / 128.0;
/// Elements of each input that are compared.
const SAMPLES: usize = 16;
const TOLERANCE: Tolerance = Tolerance { absolute: 2e-3, relative: 2e-3 };
/// Larger cases would take long and test nothing else.
const MOST_ELEMENTS: usize = 40_000;

/// A case with a loss, the sum of its outputs times noise, and the gradients of its float inputs as the graph's outputs.
struct Differentiated {
    graph: Graph,
    inputs: Values,
    /// The noise that each output is multiplied with.
    weights: Vec<Host>,
    /// Name of each input in `inputs`, and of its gradient; `None` for integers and data.
    names: Vec<Option<String>>,
}

fn differentiate(case: &Case) -> Differentiated {
    let mut g = Graph::new();
    let vars: Vec<Var> = case.inputs.iter().enumerate().map(|(i, h)| g.input(&i.to_string(), h.ty())).collect();
    let outputs = g.apply_all(case.op.clone(), &vars);
    let weights: Vec<Host> = outputs.iter().enumerate().map(|(i, &y)| noise(g.shape(y).dims(), 1000 + i as u64)).collect();
    let mut loss = None;
    for (&y, weight) in outputs.iter().zip(&weights) {
        let weight = g.constant(weight.clone());
        let product = binary::mul(&mut g, y, weight);
        let sum = reduce::total(&mut g, product);
        loss = Some(loss.map_or(sum, |loss| binary::add(&mut g, loss, sum)));
    }
    let data = DATA.iter().find(|(name, _)| *name == case.op.name()).map_or(&[][..], |(_, inputs)| inputs);
    let is_learnt = |(i, v): &(usize, &Var)| g.ty(**v).dtype.is_float() && !data.contains(i);
    let wanted: Vec<Var> = vars.iter().enumerate().filter(is_learnt).map(|(_, &v)| v).collect();
    let gradients = g.backward(loss.expect("an output"), &wanted);
    let mut names = vec![None; vars.len()];
    for (var, gradient) in wanted.into_iter().zip(gradients) {
        let i = vars.iter().position(|&v| v == var).expect("an input");
        let gradient = gradient.unwrap_or_else(|| panic!("{}: no gradient of input {i}", case.name()));
        g.output(&i.to_string(), gradient);
        names[i] = Some(i.to_string());
    }
    let inputs = case.inputs.iter().enumerate().map(|(i, h)| (i.to_string(), h.clone())).collect();
    Differentiated { graph: g, inputs, weights, names }
}

/// What one element's differences say.
enum Slope {
    Smooth(f64),
    /// The slopes on both sides differ: the function has a bend here, its derivative is a matter of taste.
    Bend,
}

/// The loss of a case with one element of one input moved, minus the loss without, both from the op's twin.
fn change(case: &Case, weights: &[Host], base: &[Host], input: usize, element: usize, by: f32) -> f64 {
    let mut moved = case.inputs.clone();
    let mut data = moved[input].to_f32().into_owned();
    data[element] += by;
    moved[input] = Host::f32(moved[input].shape().dims(), data);
    let types: Vec<TensorType> = base.iter().map(Host::ty).collect();
    let outputs = case.op.reference(&moved.iter().collect::<Vec<_>>(), &types);
    let mut sum = 0.0;
    for ((y, base), weight) in outputs.iter().zip(base).zip(weights) {
        // Differences first: the parts of the loss that stay the same cancel without rounding.
        let (y, base, weight) = (y.to_f32(), base.to_f32(), weight.to_f32());
        sum += (0..y.len()).map(|i| (f64::from(y[i]) - f64::from(base[i])) * f64::from(weight[i])).sum::<f64>();
    }
    sum
}

fn slope(case: &Case, weights: &[Host], base: &[Host], input: usize, element: usize) -> Slope {
    let at = |steps: f32| change(case, weights, base, input, element, steps * STEP);
    let (h, values) = (f64::from(STEP), [at(-2.0), at(-1.0), at(1.0), at(2.0)]);
    let slopes = [values[0] / (-2.0 * h), values[1] / -h, values[2] / h, values[3] / (2.0 * h)];
    let (least, most) = slopes.iter().fold((f64::MAX, f64::MIN), |(a, b), &s| (a.min(s), b.max(s)));
    // Noise is below 1, so that a bend changes a slope by some tenths; a smooth function by its curvature times the step.
    if most - least > 0.05 + 0.1 * most.abs().max(least.abs()) {
        return Slope::Bend;
    }
    Slope::Smooth((8.0 * (values[2] - values[1]) - (values[3] - values[0])) / (12.0 * h))
}

/// Compares the gradients of a case with differences; returns how many elements were compared.
fn check(case: &Case) -> Result<usize, String> {
    let differentiated = differentiate(case);
    let gradients = interpret(&differentiated.graph, &differentiated.inputs, &Values::new());
    let types = case.op.outputs(&case.inputs.iter().map(Host::ty).collect::<Vec<_>>());
    let base = case.op.reference(&case.inputs.iter().collect::<Vec<_>>(), &types);
    let mut compared = 0;
    for (input, name) in differentiated.names.iter().enumerate() {
        let Some(name) = name else { continue };
        let gradient = gradients[name].to_f32();
        let step = gradient.len().div_ceil(SAMPLES);
        for element in (0..gradient.len()).step_by(step) {
            let Slope::Smooth(expected) = slope(case, &differentiated.weights, &base, input, element) else { continue };
            let error = (f64::from(gradient[element]) - expected).abs();
            let allowed = f64::from(TOLERANCE.absolute) + f64::from(TOLERANCE.relative) * expected.abs();
            // False for a NaN.
            let close = error <= allowed;
            if !close {
                let found = gradient[element];
                return Err(format!("{}: gradient of input {input} at {element} is {found}, differences say {expected}", case.name()));
            }
            compared += 1;
        }
    }
    Ok(compared)
}

/// Runs the gradient graph of a case on the GPU and compares with the twins.
fn check_gpu(case: &Case) {
    let Differentiated { graph, inputs, .. } = differentiate(case);
    let expected = interpret(&graph, &inputs, &Values::new());
    let params = Params::upload(gpu(), &Values::new()).expect("the device works");
    let options = PlanOptions { guards: true, ..PlanOptions::default() };
    let plan = Plan::compile(gpu(), &graph, &params, &mut Scratch::default(), options).expect("the device works");
    let found = plan.call(&inputs).expect("the device works");
    assert!(!found.is_empty());
    for (name, gradient) in &found {
        let tolerance = Tolerance { absolute: 2e-4, relative: 2e-4 };
        compare(gradient, &expected[name], tolerance).unwrap_or_else(|e| panic!("{}: gradient of input {name}: {e}", case.name()));
    }
}

/// Cases of the table whose op has a gradient, by the op's name.
fn differentiable_cases() -> BTreeMap<&'static str, Vec<Case>> {
    let mut cases: BTreeMap<_, Vec<Case>> = DIFFERENTIABLE.iter().map(|&(name, _)| (name, Vec::new())).collect();
    for case in TABLE.iter().flat_map(|family| (family.cases)()) {
        let small = case.inputs.iter().map(|h| h.shape().len()).sum::<usize>() <= MOST_ELEMENTS;
        // Fused epilogues have no gradient: graphs are differentiated before they are fused.
        let op = &*case.op as &dyn Any;
        let grouped = op.downcast_ref::<Conv2d>().is_some_and(|c| c.groups > 1);
        let epilogues = [
            op.downcast_ref::<Depthwise>().map(|d| d.epilogue),
            op.downcast_ref::<Conv2d>().map(|c| c.epilogue),
            op.downcast_ref::<Linear>().map(|l| l.epilogue),
        ];
        let fused = epilogues.into_iter().flatten().any(|e| e != Epilogue::bias(e.shift));
        let of_floats = case.inputs.iter().any(|h| h.dtype().is_float());
        if let Some(list) = cases.get_mut(case.op.name()).filter(|_| small && !fused && !grouped && of_floats) {
            list.push(case);
        }
    }
    cases
}

/// Whether differences of its f32 twin mean anything: not in f16, and not where few digits are left behind the point.
fn is_measurable(case: &Case) -> bool {
    let types = case.op.outputs(&case.inputs.iter().map(Host::ty).collect::<Vec<_>>());
    let fine = |h: &Host| h.dtype() == DType::U32 || h.dtype() == DType::F32 && h.to_f32().iter().all(|v| v.abs() < 100.0);
    case.inputs.iter().all(fine) && types.iter().all(|t| t.dtype == DType::F32)
}

#[test]
fn every_gradient_agrees_with_differences() {
    let mut failures = Vec::new();
    for (name, cases) in differentiable_cases() {
        let mut compared = 0;
        for case in cases.iter().filter(|case| is_measurable(case)) {
            match check(case) {
                Ok(n) => compared += n,
                Err(what) => failures.push(what),
            }
        }
        let least = DIFFERENTIABLE.iter().find(|(n, _)| *n == name).map_or(0, |(_, least)| *least);
        println!("{name}: {compared} elements compared");
        if compared < least {
            failures.push(format!("{name}: only {compared} of at least {least} elements were compared"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_gradient_has_the_type_of_its_value() {
    let mut half = 0;
    for case in differentiable_cases().into_values().flatten() {
        // The walk refuses a gradient of another type.
        let differentiated = differentiate(&case);
        half += usize::from(case.needs_f16());
        for name in differentiated.names.iter().flatten() {
            let gradient = differentiated.graph.outputs()[name];
            let (found, value) = (differentiated.graph.ty(gradient), differentiated.inputs[name].ty());
            // Sums over many terms, as those of weights, may stay in f32.
            assert!(found == value || found == value.with_dtype(DType::F32), "{}: {found} for {value}", case.name());
        }
    }
    assert!(half > 20, "only {half} cases in f16");
}

#[test]
fn the_gpu_computes_the_gradients_that_the_twins_compute() {
    for (name, cases) in differentiable_cases() {
        let measurable: Vec<_> = cases.iter().filter(|case| is_measurable(case)).collect();
        assert!(measurable.len() >= 4, "{name}: {} cases", measurable.len());
        measurable.into_iter().take(12).for_each(check_gpu);
    }
}

#[test]
fn every_op_of_the_table_has_a_gradient_or_a_reason() {
    let known: Vec<&str> = DIFFERENTIABLE.iter().map(|(n, _)| *n).chain(WITHOUT.iter().map(|(n, _)| *n)).collect();
    let ops = TABLE.iter().flat_map(|family| (family.cases)()).map(|case| case.op.name());
    let missing: std::collections::BTreeSet<&str> = ops.filter(|name| !known.contains(name)).collect();
    assert!(missing.is_empty(), "neither in DIFFERENTIABLE nor in WITHOUT: {missing:?}");
}

/// `x²`, with a gradient that may be wrong.
#[derive(Clone, Copy, Debug)]
struct Square {
    factor: f32,
}

impl Op for Square {
    fn name(&self) -> &'static str {
        "square"
    }
    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        vec![inputs[0]]
    }
    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        vec![Host::from_f32(outputs[0], inputs[0].to_f32().iter().map(|x| x * x).collect())]
    }
    fn kernels(&self, _: &[TensorType], _: &[TensorType], _: &Capabilities) -> Vec<Dispatch> {
        Vec::new()
    }
    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], _wanted: &[bool]) -> Vec<Option<Var>> {
        let factor = graph.constant(Host::f32([1], vec![self.factor]));
        let slope = binary::mul(graph, io.inputs[0], factor);
        vec![d_outputs[0].map(|d_y| binary::mul(graph, d_y, slope))]
    }
}

#[test]
fn a_wrong_gradient_is_red_and_a_right_one_green() {
    let verdict = |factor: f32| check(&Case::new(Square { factor }, vec![noise([20], 1)], Tolerance::EXACT));
    assert_eq!(verdict(2.0), Ok(10));
    assert!(verdict(2.05).is_err_and(|e| e.contains("differences say")));
    assert!(verdict(f32::NAN).is_err());
}
