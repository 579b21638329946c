//! Single layers against PyTorch: the CPU twins and the GPU, on the goldens that `tests/golden/layers.py` writes.

mod common;

use common::gpu;
use qdetr::graph::{Graph, Params, Plan, PlanOptions, Scratch, Values, Var, interpret};
use qdetr::kernels::conv::{Conv2d, Window};
use qdetr::kernels::depthwise::Depthwise;
use qdetr::kernels::epilogue::Epilogue;
use qdetr::kernels::{attention, layer_norm, linear, pool, position, scale_shift, softmax, unary};
use qdetr::tensor::compare::{Tolerance, compare};
use qdetr::tensor::{DType, Host, Shape};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};

const FILE: &[u8] = include_bytes!("../assets/golden/layers.safetensors");

/// One case of a layer: its tensors, its attributes, and the graph that computes it.
struct Golden<'a> {
    file: &'a SafeTensors<'a>,
    name: &'a str,
    attributes: &'a Value,
    g: Graph,
    inputs: Values,
}

impl Golden<'_> {
    /// A tensor of the case, if it has it; bytes become `u32`.
    fn get(&self, tensor: &str) -> Option<Host> {
        let view = self.file.tensor(&format!("{}/{tensor}", self.name)).ok()?;
        Some(match view.dtype() {
            Dtype::F32 => Host::f32(view.shape(), bytemuck::pod_collect_to_vec(view.data())),
            Dtype::U8 => Host::u32(view.shape(), view.data().iter().map(|&b| u32::from(b)).collect()),
            other => panic!("{}/{tensor} is {other:?}", self.name),
        })
    }

    fn tensor(&self, tensor: &str) -> Host {
        self.get(tensor).unwrap_or_else(|| panic!("{} has no tensor `{tensor}`", self.name))
    }

    /// A tensor of the case as an input of the graph.
    fn input(&mut self, tensor: &str) -> Var {
        let host = self.tensor(tensor);
        self.feed(tensor, host)
    }

    fn feed(&mut self, name: &str, host: Host) -> Var {
        let var = self.g.input(name, host.ty());
        self.inputs.insert(name.to_owned(), host);
        var
    }

    fn number(&self, attribute: &str) -> f64 {
        self.attributes[attribute].as_f64().unwrap_or_else(|| panic!("{} has no number `{attribute}`", self.name))
    }

    fn size(&self, attribute: &str) -> usize {
        self.number(attribute) as usize
    }

    /// A pair; `None` when its parts differ.
    fn square(&self, attribute: &str) -> Option<usize> {
        let pair = self.attributes[attribute].as_array().unwrap_or_else(|| panic!("{} has no pair `{attribute}`", self.name));
        (pair[0] == pair[1]).then(|| pair[0].as_u64().expect("a whole number") as usize)
    }
}

/// `[B, C, H, W]` to `[B, H, W, C]`.
fn channels_last(x: &Host) -> Host {
    let [b, c, h, w] = x.shape().bhwc();
    let data = x.to_f32();
    let at = |i: usize| data[((i / (h * w * c) * c + i % c) * h + i / (w * c) % h) * w + i / c % w];
    Host::f32([b, h, w, c], (0..x.shape().len()).map(at).collect())
}

/// Builds a case and says what must come out of it; `None` for a case this crate has no layer for.
type Build = fn(&mut Golden<'_>) -> Option<(Vec<Var>, Host)>;

/// Runs all cases of a layer, or the one named `layer/case`, on the twins and the GPU and returns how many were compared.
fn run(layer: &str, tolerance: Tolerance, build: Build) -> usize {
    let file = SafeTensors::deserialize(FILE).expect("the golden file");
    let (_, metadata) = SafeTensors::read_metadata(FILE).expect("the golden file");
    let metadata = metadata.metadata().as_ref().expect("metadata");
    let cases: Map<String, Value> = serde_json::from_str(&metadata["cases"]).expect("cases as JSON");
    let mut compared = 0;
    for (name, attributes) in &cases {
        if name != layer && !name.starts_with(&format!("{layer}/")) {
            continue;
        }
        let mut golden = Golden { file: &file, name, attributes, g: Graph::new(), inputs: Values::new() };
        if let Some((outputs, expected)) = build(&mut golden) {
            check(golden, &outputs, &expected, tolerance);
            compared += 1;
        }
    }
    compared
}

fn check(mut golden: Golden<'_>, outputs: &[Var], expected: &Host, tolerance: Tolerance) {
    for (i, &y) in outputs.iter().enumerate() {
        golden.g.output(&i.to_string(), y);
    }
    let options = PlanOptions { guards: true, ..PlanOptions::default() };
    let params = Params::upload(gpu(), &Values::new()).expect("the device works");
    let plan = Plan::compile(gpu(), &golden.g, &params, &mut Scratch::default(), options).expect("the device works");
    let device = plan.call(&golden.inputs).expect("the device works");
    for (what, found) in [("twin", interpret(&golden.g, &golden.inputs, &Values::new())), ("GPU", device)] {
        assert_eq!(found.len(), outputs.len());
        for (i, y) in &found {
            if let Err(mismatch) = compare(y, expected, tolerance) {
                panic!("{}, {what}, output {i}: {mismatch}", golden.name);
            }
        }
    }
}

#[test]
fn sine_positions() {
    let compared = run("sine_positions", Tolerance::of(2e-6), |t| {
        let channels = t.size("channels");
        let mask = t.input("valid");
        let y = position::sine_position(&mut t.g, mask, channels, DType::F32);
        let expected = channels_last(&t.tensor("output")).reshape(t.g.shape(y).dims());
        Some((vec![y], expected))
    });
    assert_eq!(compared, 5);
}

#[test]
fn resize_mask() {
    let compared = run("resize_mask", Tolerance::EXACT, |t| {
        let expected = t.tensor("output");
        let [_, h, w] = expected.shape().blc();
        let mask = t.input("valid");
        Some((vec![position::mask_resize(&mut t.g, position::Valid::mask(mask), h, w)], expected))
    });
    assert_eq!(compared, 3);
}

#[test]
fn multi_head_attention() {
    let compared = run("attention", Tolerance::of(1e-5), |t| {
        let (weight, bias) = (t.tensor("in_proj_weight"), t.tensor("in_proj_bias"));
        let c = weight.shape().last();
        // The packed projection holds the rows of q, k and v.
        let projected = ["query", "key", "value"].into_iter().enumerate().map(|(i, name)| {
            let x = t.input(name);
            let w = t.feed(&format!("w{i}"), Host::f32([c, c], weight.to_f32()[i * c * c..(i + 1) * c * c].to_vec()));
            let b = t.feed(&format!("b{i}"), Host::f32([c], bias.to_f32()[i * c..(i + 1) * c].to_vec()));
            linear::linear(&mut t.g, x, w, Some(b))
        });
        let projected: Vec<Var> = projected.collect();
        let valid = |h: Host| Host::u32(h.shape().dims(), h.as_u32().iter().map(|p| 1 - p).collect());
        let mask = t.get("padding").map(|padding| t.feed("mask", valid(padding)));
        let heads = t.size("heads");
        let mixed = attention::attention(&mut t.g, projected[0], projected[1], projected[2], heads, mask);
        let (w, b) = (t.input("out_proj.weight"), t.input("out_proj.bias"));
        Some((vec![linear::linear(&mut t.g, mixed, w, Some(b))], t.tensor("output")))
    });
    assert_eq!(compared, 6);
}

#[test]
fn layer_norm_of_rows_near_and_far_from_zero() {
    let build: Build = |t| {
        let (x, w, b) = (t.input("input"), t.input("weight"), t.input("bias"));
        let eps = t.number("eps") as f32;
        Some((vec![layer_norm::layer_norm(&mut t.g, x, w, b, eps)], t.tensor("output")))
    };
    for case in ["plain", "width_256", "width_33"] {
        assert_eq!(run(&format!("layer_norm/{case}"), Tolerance::of(1e-5), build), 1);
    }
    // The f32 mean of numbers around 1000 is off by a few of their last bits, 6e-5 each, in rows whose deviation is 1.7.
    assert_eq!(run("layer_norm/far_from_zero", Tolerance::of(3e-4), build), 1);
    // Around 0.5 the last bit is 6e-8, and rows are scaled up by 280.
    assert_eq!(run("layer_norm/nearly_constant", Tolerance::of(5e-5), build), 1);
}

#[test]
fn frozen_batch_norm() {
    // Scales reach 300, so that the shift, a difference of large numbers, keeps five digits.
    let compared = run("batch_norm", Tolerance { absolute: 2e-4, relative: 1e-5 }, |t| {
        let x = channels_last(&t.tensor("input"));
        let x = t.feed("input", x);
        let [w, b, mean, variance] = ["weight", "bias", "running_mean", "running_var"].map(|name| t.input(name));
        let eps = t.number("eps") as f32;
        let (scale, shift) = scale_shift::frozen_norm(&mut t.g, w, b, mean, variance, eps);
        let y = scale_shift::scale_shift(&mut t.g, x, scale, shift);
        Some((vec![y], channels_last(&t.tensor("output"))))
    });
    assert_eq!(compared, 2);
}

#[test]
fn linear_layers() {
    let compared = run("linear", Tolerance::of(1e-5), |t| {
        let (x, w, b) = (t.input("input"), t.input("weight"), t.input("bias"));
        Some((vec![linear::linear(&mut t.g, x, w, Some(b))], t.tensor("output")))
    });
    assert_eq!(compared, 3);
}

#[test]
fn convolutions() {
    let compared = run("conv2d", Tolerance::of(1e-5), |t| {
        // Windows of this crate move alike in both directions; the one case whose do not is left out.
        let (stride, padding, dilation) = (t.square("stride")?, t.square("padding")?, t.square("dilation")?);
        let window = Window { stride, padding, dilation };
        let groups = t.size("groups");
        let (x, w) = (channels_last(&t.tensor("input")), channels_last(&t.tensor("weight")));
        let is_depthwise = groups == x.shape().last() && groups == w.shape().dims()[0];
        let mut inputs = vec![t.feed("input", x), t.feed("weight", w)];
        let has_bias = t.get("bias").is_some();
        inputs.extend(has_bias.then(|| t.input("bias")));
        let epilogue = Epilogue::bias(has_bias);
        let mut outputs = vec![t.g.apply(Conv2d { window, groups, epilogue }, &inputs)];
        if is_depthwise {
            outputs.push(t.g.apply(Depthwise { window, epilogue }, &inputs));
        }
        Some((outputs, channels_last(&t.tensor("output"))))
    });
    assert_eq!(compared, 13);
}

#[test]
fn max_pools() {
    let compared = run("max_pool2d", Tolerance::EXACT, |t| {
        let x = channels_last(&t.tensor("input"));
        let x = t.feed("input", x);
        let size = |name: &str| t.square(name).expect("a square window");
        let (kernel, stride, padding) = (size("kernel"), size("stride"), size("padding"));
        Some((vec![pool::max_pool(&mut t.g, x, kernel, stride, padding)], channels_last(&t.tensor("output"))))
    });
    assert_eq!(compared, 4);
}

#[test]
fn activations_at_their_bends_and_ends() {
    fn activation(t: &mut Golden<'_>, function: fn(&mut Graph, Var) -> Var) -> Option<(Vec<Var>, Host)> {
        let x = t.input("input");
        Some((vec![function(&mut t.g, x)], t.tensor("output")))
    }
    assert_eq!(run("relu", Tolerance::EXACT, |t| activation(t, unary::relu)), 1);
    assert_eq!(run("relu6", Tolerance::EXACT, |t| activation(t, unary::relu6)), 1);
    assert_eq!(run("sigmoid", Tolerance::of(1e-6), |t| activation(t, unary::sigmoid)), 1);
}

#[test]
fn softmax_of_sharp_and_far_rows() {
    let compared = run("softmax", Tolerance::of(1e-5), |t| {
        let x = t.input("input");
        Some((vec![softmax::softmax(&mut t.g, x, None)], t.tensor("output")))
    });
    assert_eq!(compared, 1);
}

#[test]
fn channels_move_last() {
    let x = Host::f32([1, 2, 1, 3], vec![0.0, 1.0, 2.0, 10.0, 11.0, 12.0]);
    let y = channels_last(&x);
    assert_eq!(y.shape(), Shape::new([1, 1, 3, 2]));
    assert_eq!(y.to_f32().as_ref(), [0.0, 10.0, 1.0, 11.0, 2.0, 12.0]);
}
