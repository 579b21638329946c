//! Products of codes against products of the values that the codes stand for, written from the formulas in f64: forward and
//! gradients; and small networks on codes, the same to the bit on the twins and on every kernel tier.

mod common;

use common::gpu;
use qdetr::graph::check::noise;
use qdetr::graph::{Graph, Params, Plan, PlanOptions, Scratch, Values, interpret};
use qdetr::kernels::conv::Window;
use qdetr::kernels::head_codes::{self, HeadCodes};
use qdetr::kernels::integer::{self, Codes};
use qdetr::kernels::quantize::{Levels, dequantize, quantize, quantizer_state};
use qdetr::kernels::{binary, heads, reduce};
use qdetr::tensor::compare::{Tolerance, compare_floats};
use qdetr::tensor::{DType, Host, TensorType};

/// A layer under test.
#[derive(Clone, Copy, Debug)]
enum Layer {
    Linear,
    Conv(Window),
    Depthwise(Window),
}

/// A layer on `image` with `weight`, and the bits of both.
#[derive(Clone, Copy, Debug)]
struct Test {
    layer: Layer,
    image: &'static [usize],
    weight: &'static [usize],
    bits: [u32; 2],
    to: DType,
}

const X_ALPHA: f32 = 0.11;
const X_ZERO: f32 = 1.3;

impl Test {
    fn levels(self) -> [Levels; 2] {
        [Levels::new(self.bits[0], false), Levels::new(self.bits[1], true)]
    }

    fn values(self) -> Values {
        let n = self.weight[0];
        let alpha_w = noise([n], 5).to_f32().iter().map(|v| (1.5 + v) / (1 << self.bits[1]) as f32).collect();
        Values::from([
            ("x".to_owned(), noise(self.image, 1)),
            ("w".to_owned(), noise(self.weight, 2)),
            ("bias".to_owned(), noise([n], 3)),
            ("alpha_x".to_owned(), Host::f32([1], vec![X_ALPHA])),
            ("zp".to_owned(), Host::f32([1], vec![X_ZERO])),
            ("alpha_w".to_owned(), Host::f32([n], alpha_w)),
        ])
    }

    /// Codes of x and w, the layer's result y, the weights of a loss, and the gradients of the codes and the bias.
    fn graph(self) -> Graph {
        let mut g = Graph::new();
        let values = self.values();
        let mut input = |name: &str| g.input(name, values[name].ty());
        let [x, w, bias, alpha_x, zp, alpha_w] = ["x", "w", "bias", "alpha_x", "zp", "alpha_w"].map(&mut input);
        let levels = self.levels();
        let (state_x, state_w) = (quantizer_state(&mut g, alpha_x, Some(zp), levels[0]), quantizer_state(&mut g, alpha_w, None, levels[1]));
        let codes_x = quantize(&mut g, x, state_x, levels[0], 1);
        let inner = self.weight[1..].iter().product();
        let codes_w = quantize(&mut g, w, state_w, levels[1], inner);
        let x = Codes { codes: codes_x, state: state_x, bits: self.bits[0] };
        let w = Codes { codes: codes_w, state: state_w, bits: self.bits[1] };
        let y = match self.layer {
            Layer::Linear => integer::linear(&mut g, x, w, Some(bias), self.to),
            Layer::Conv(window) => integer::conv(&mut g, x, w, Some(bias), window, self.to),
            Layer::Depthwise(window) => integer::depthwise(&mut g, x, w, Some(bias), window, self.to),
        };
        let weights = noise(g.shape(y).dims(), 9).cast(self.to);
        let weights = g.constant(weights);
        let product = binary::mul(&mut g, y, weights);
        let loss = reduce::total(&mut g, product);
        let gradients = g.backward(loss, &[codes_x, codes_w, bias]);
        let names = ["codes_x", "codes_w", "y", "d_x", "d_w", "d_bias"];
        let vars = [codes_x, codes_w, y].into_iter().chain(gradients.into_iter().map(|d| d.expect("a gradient")));
        names.iter().zip(vars).for_each(|(name, var)| g.output(name, var));
        g
    }

    /// Calls `visit(element of y, of x, of w)` for every product that is not with padding.
    fn visit(self, y: &[usize], mut visit: impl FnMut(usize, usize, usize)) {
        let (k, n) = (self.image[self.image.len() - 1], self.weight[0]);
        let (window, depthwise) = match self.layer {
            Layer::Linear => {
                let rows = y.iter().product::<usize>() / n;
                (0..rows * n * k).for_each(|i| visit(i / k, i / (n * k) * k + i % k, i / k % n * k + i % k));
                return;
            }
            Layer::Conv(window) => (window, false),
            Layer::Depthwise(window) => (window, true),
        };
        let (&[_, height, width, c], &[_, kh, kw, per_group], &[b, oh, ow, _]) = (self.image, self.weight, y) else {
            panic!("four dimensions")
        };
        let inside = |o: usize, tap: usize, extent: usize| {
            (o * window.stride + tap * window.dilation).checked_sub(window.padding).filter(|&i| i < extent)
        };
        for i in 0..b * oh * ow * n * kh * kw * per_group {
            let (channel, tap, out) = (i % per_group, i / per_group % (kh * kw), i / (per_group * kh * kw));
            let (pixel, n_) = (out / n, out % n);
            let at = inside(pixel / ow % oh, tap / kw, height).zip(inside(pixel % ow, tap % kw, width));
            let Some((iy, ix)) = at else { continue };
            let x = ((pixel / (oh * ow) * height + iy) * width + ix) * c + if depthwise { n_ } else { channel };
            visit(out, x, (n_ * kh * kw + tap) * per_group + channel);
        }
    }

    /// y, d_x, d_w and d_bias in f64, from the codes.
    fn expected(self, codes_x: &Host, codes_w: &Host, y: &Host) -> [Vec<f64>; 4] {
        let values = self.values();
        let zero = f64::from(X_ZERO.round() - (1 << (self.bits[0] - 1)) as f32);
        let x: Vec<f64> = codes_x.as_i8().iter().map(|&q| f64::from(X_ALPHA) * (f64::from(q) - zero)).collect();
        let (alpha_w, bias) = (values["alpha_w"].to_f32(), values["bias"].to_f32());
        let inner = self.weight[1..].iter().product::<usize>();
        let w: Vec<f64> = codes_w.as_i8().iter().enumerate().map(|(i, &q)| f64::from(alpha_w[i / inner]) * f64::from(q)).collect();
        let n = self.weight[0];
        let d_y = noise(y.shape().dims(), 9).cast(self.to);
        let d_y: Vec<f64> = d_y.to_f32().iter().map(|&d| f64::from(d)).collect();
        let mut out: Vec<f64> = (0..d_y.len()).map(|i| f64::from(bias[i % n])).collect();
        let (mut d_x, mut d_w, mut d_bias) = (vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; n]);
        self.visit(y.shape().dims(), |o, i, k| {
            out[o] += x[i] * w[k];
            d_x[i] += d_y[o] * w[k];
            d_w[k] += d_y[o] * x[i];
        });
        d_y.iter().enumerate().for_each(|(i, d)| d_bias[i % n] += d);
        [out, d_x, d_w, d_bias]
    }
}

/// Runs a graph of inputs on the device, with the n-th best kernels.
fn run(graph: &Graph, values: &Values, variant: usize) -> Values {
    let params = Params::upload(gpu(), &Values::new()).expect("the device works");
    let options = PlanOptions { variant: Some(variant), ..PlanOptions::default() };
    let plan = Plan::compile(gpu(), graph, &params, &mut Scratch::default(), options).expect("the device works");
    plan.poison(0x7FC0_1234);
    plan.call(values).expect("the device works")
}

/// So large that it is the last, portable kernel of every op.
const PORTABLE: usize = 99;

fn tests() -> Vec<Test> {
    let window = |stride, padding, dilation| Window { stride, padding, dilation };
    let conv = |s, p, d| Layer::Conv(window(s, p, d));
    let depthwise = |s, p, d| Layer::Depthwise(window(s, p, d));
    let of = |layer, image, weight, bits| Test { layer, image, weight, bits, to: DType::F32 };
    let all = [
        of(Layer::Linear, &[2, 9, 20], &[12, 20], [4, 4]),
        of(Layer::Linear, &[7, 13], &[5, 13], [8, 8]),
        of(conv(1, 1, 1), &[2, 6, 5, 8], &[12, 3, 3, 8], [4, 4]),
        of(conv(2, 3, 1), &[1, 13, 11, 3], &[16, 7, 7, 3], [8, 8]),
        of(conv(1, 2, 2), &[1, 7, 6, 5], &[7, 3, 3, 5], [2, 3]),
        of(conv(2, 0, 1), &[2, 7, 5, 16], &[8, 1, 1, 16], [3, 4]),
        of(depthwise(1, 1, 1), &[2, 6, 5, 8], &[8, 3, 3, 1], [4, 4]),
        of(depthwise(2, 1, 1), &[1, 9, 7, 5], &[5, 3, 3, 1], [8, 8]),
    ];
    let half = all.into_iter().step_by(2).map(|t| Test { to: DType::F16, ..t });
    all.into_iter().chain(half).collect()
}

#[test]
fn products_and_their_gradients_are_those_of_the_values() {
    for test in tests() {
        let (graph, values) = (test.graph(), test.values());
        let twin = interpret(&graph, &values, &Values::new());
        // Sums of up to hundreds of products below 10; in f16, gradients are rounded, and weights before them.
        let tolerance = if test.to == DType::F16 { Tolerance::of(1e-2) } else { Tolerance::of(2e-5) };
        for (on, found) in [("twins", twin.clone()), ("device", run(&graph, &values, 0)), ("portable", run(&graph, &values, PORTABLE))] {
            let expected = test.expected(&found["codes_x"], &found["codes_w"], &found["y"]);
            for (name, expected) in ["y", "d_x", "d_w", "d_bias"].into_iter().zip(expected) {
                let expected: Vec<f32> = expected.iter().map(|&v| v as f32).collect();
                compare_floats(&found[name].to_f32(), &expected, tolerance).unwrap_or_else(|e| panic!("{test:?}, {on}: {name}: {e}"));
            }
            // Codes and results are the same to the bit.
            for name in ["codes_x", "codes_w", "y"] {
                assert_eq!(found[name].as_bytes(), twin[name].as_bytes(), "{test:?}, {on}: {name}");
            }
        }
    }
}

#[test]
fn gradients_of_codes_have_their_shape_and_the_type_of_the_result() {
    for test in tests() {
        let graph = test.graph();
        let ty = |name: &str| graph.ty(graph.outputs()[name]);
        assert_eq!(ty("d_x"), TensorType::new(test.image, test.to), "{test:?}");
        assert_eq!(ty("d_w"), TensorType::f32(test.weight), "{test:?}");
    }
}

#[test]
fn what_stands_for_zero_is_padding() {
    // Weights of 1 on an image of zeros: the result is 0 everywhere, at the border too, whatever the zero point.
    for layer in [Layer::Conv(Window { padding: 1, ..Window::default() }), Layer::Depthwise(Window { padding: 1, ..Window::default() })] {
        let weight: &[usize] = if matches!(layer, Layer::Conv(_)) { &[4, 3, 3, 4] } else { &[4, 3, 3, 1] };
        let test = Test { layer, image: &[1, 3, 5, 4], weight, bits: [4, 4], to: DType::F32 };
        let (graph, mut values) = (test.graph(), test.values());
        let full = |shape: &[usize], v: f32| Host::f32(shape, vec![v; shape.iter().product()]);
        values.extend([("x".to_owned(), full(test.image, 0.0)), ("w".to_owned(), full(weight, 1.0)), ("bias".to_owned(), full(&[4], 0.0))]);
        for found in [interpret(&graph, &values, &Values::new()), run(&graph, &values, 0), run(&graph, &values, PORTABLE)] {
            let found = found["y"].to_f32();
            assert!(found.iter().all(|v| v.abs() < 1e-5), "{layer:?}: {found:?}");
        }
    }
}

/// The gradients of the operands of attention's two products, which are codes: by kernels that read codes, or on their values in memory.
fn head_gradients(on_codes: bool, to: DType, [n, s, depth]: [usize; 3]) -> Graph {
    const HEADS: usize = 3;
    let mut g = Graph::new();
    let mut operand = |shape: &[usize], inner: usize, seed: u64| {
        let alpha = g.constant(Host::f32([HEADS], vec![0.011, 0.007, 0.009]));
        let zero = g.constant(Host::f32([HEADS], vec![5.0, -70.0, 31.0]));
        let (x, levels) = (g.constant(noise(shape, seed)), Levels::new(8, true));
        let state = quantizer_state(&mut g, alpha, Some(zero), levels);
        (HeadCodes { codes: quantize(&mut g, x, state, levels, inner), state }, inner)
    };
    let q = operand(&[2, n, HEADS * depth], depth, 1);
    let [k, v] = [2, 3].map(|seed| operand(&[2, s, HEADS * depth], depth, seed));
    let p = operand(&[2, HEADS, n, s], n * s, 4);
    let [scores, mix] = if on_codes {
        [head_codes::scores(&mut g, q.0, k.0, HEADS, to), head_codes::mix(&mut g, p.0, v.0, to)]
    } else {
        let [q, k, p, v] = [q, k, p, v].map(|(HeadCodes { codes, state }, inner)| dequantize(&mut g, codes, state, inner, to));
        [heads::scores(&mut g, q, k, HEADS), heads::mix(&mut g, p, v, None)]
    };
    let [a, b] = [scores, mix].map(|y| {
        let weights = g.constant(noise(g.shape(y).dims(), 9).cast(to));
        let products = binary::mul(&mut g, y, weights);
        reduce::total(&mut g, products)
    });
    let loss = binary::add(&mut g, a, b);
    let gradients = g.backward(loss, &[q, k, v, p].map(|(operand, _)| operand.codes));
    for (name, gradient) in ["d_q", "d_k", "d_v", "d_p"].into_iter().zip(gradients) {
        g.output(name, gradient.expect("a gradient"));
    }
    g
}

#[test]
fn gradients_of_attention_on_codes_are_to_the_bit_those_on_values_in_memory() {
    let sizes = [[9, 14, 8], [65, 67, 5]];
    for (to, size) in [DType::F32, DType::F16].into_iter().flat_map(|to| sizes.map(|size| (to, size))) {
        let [codes, values] = [true, false].map(|on_codes| head_gradients(on_codes, to, size));
        let dequantizers = |g: &Graph| g.nodes().iter().filter(|node| node.op.name() == "dequantize").count();
        assert_eq!([&codes, &values].map(dequantizers), [0, 4]);
        for variant in [0, PORTABLE] {
            let [found, expected] = [&codes, &values].map(|graph| run(graph, &Values::new(), variant));
            for (name, expected) in &expected {
                assert!(found[name].as_bytes() == expected.as_bytes(), "{name} {to} {size:?}, kernel {variant}");
            }
        }
    }
}
