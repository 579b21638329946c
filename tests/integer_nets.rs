//! Small networks on codes: what fusing makes of them, the same to the bit on the twins and on every kernel tier, and the same
//! as arithmetic on the values that the codes stand for.

mod common;

use common::gpu;
use qdetr::gpu::{Capabilities, Tier};
use qdetr::graph::check::noise;
use qdetr::graph::{Graph, Params, Plan, PlanOptions, Scratch, Values, Var, fuse, fuse_for, interpret};
use qdetr::kernels::conv::{Window, conv2d};
use qdetr::kernels::depthwise::depthwise;
use qdetr::kernels::head_codes::{self, HeadCodes};
use qdetr::kernels::integer::{self, Codes};
use qdetr::kernels::layer_norm::layer_norm;
use qdetr::kernels::pool::max_pool;
use qdetr::kernels::quantize::{Levels, dequantize, quantize, quantizer_state};
use qdetr::kernels::scale_shift::scale_shift;
use qdetr::kernels::softmax::softmax;
use qdetr::kernels::{binary, linear, reduce, unary};
use qdetr::tensor::compare::{Tolerance, compare};
use qdetr::tensor::{DType, Host};
use std::collections::BTreeSet;

/// On what products compute.
#[derive(Clone, Copy, Debug, PartialEq)]
enum On {
    Codes,
    /// The values that the codes stand for: fake quantization.
    Values,
}

/// A network under construction. Everything is an input of the graph, but what is trained is a parameter of one in use.
struct Net {
    g: Graph,
    values: Values,
    on: On,
    norms: bool,
    to: DType,
    in_use: bool,
    /// Whether skip connections are codes of 8 bits.
    compact: bool,
    /// Weights, step sizes, zero points and biases.
    trained: Vec<Var>,
}

impl Net {
    fn new(on: On, norms: bool, to: DType) -> Self {
        Self { g: Graph::new(), values: Values::new(), on, norms, to, in_use: false, compact: false, trained: Vec::new() }
    }

    fn input(&mut self, host: Host) -> Var {
        let name = format!("{:03}", self.values.len());
        let var = self.g.input(&name, host.ty());
        self.values.insert(name, host);
        var
    }

    fn parameter(&mut self, host: Host) -> Var {
        if !self.in_use {
            return self.input(host);
        }
        let name = format!("{:03}", self.values.len());
        let var = self.g.param(&name, host.ty());
        self.values.insert(name, host);
        var
    }

    /// Noise about `centre`, other noise at each call.
    fn vector(&mut self, n: usize, centre: f32, reach: f32) -> Var {
        let noise = noise([n], self.values.len() as u64);
        self.parameter(Host::f32([n], noise.to_f32().iter().map(|v| centre + reach * v).collect()))
    }

    /// Activations as codes of so many bits, those behind a ReLU unsigned.
    fn activations(&mut self, x: Var, bits: u32, signed: bool) -> Codes {
        let levels = Levels::new(bits, signed);
        let alpha = self.vector(1, 2.5 / (1 << bits) as f32, 0.3 / (1 << bits) as f32);
        let zp = self.vector(1, 0.0, 2.0);
        self.trained.extend([alpha, zp]);
        let state = quantizer_state(&mut self.g, alpha, Some(zp), levels);
        Codes { codes: quantize(&mut self.g, x, state, levels, 1), state, bits }
    }

    fn weights(&mut self, shape: &[usize], bits: u32) -> (Codes, usize) {
        let (levels, inner) = (Levels::new(bits, true), shape[1..].iter().product());
        let w = noise(shape, self.values.len() as u64);
        let w = self.parameter(w);
        let alpha = self.vector(shape[0], 1.6 / (1 << bits) as f32, 0.4 / (1 << bits) as f32);
        self.trained.extend([w, alpha]);
        let state = quantizer_state(&mut self.g, alpha, None, levels);
        (Codes { codes: quantize(&mut self.g, w, state, levels, inner), state, bits }, inner)
    }

    /// What a block gives to the next.
    fn kept(&mut self, x: Var) -> Var {
        if !self.compact {
            return x;
        }
        let Codes { codes, state, .. } = self.activations(x, 8, false);
        dequantize(&mut self.g, codes, state, 1, self.to)
    }

    /// A convolution, or a depthwise one for weights of one channel, and the batch norm behind it.
    fn conv(&mut self, x: Codes, weight: [usize; 4], stride: usize) -> Var {
        let (w, inner) = self.weights(&weight, x.bits);
        let window = Window { stride, padding: weight[1] / 2, dilation: 1 };
        let is_depthwise = weight[3] == 1;
        let y = match self.on {
            On::Codes if is_depthwise => integer::depthwise(&mut self.g, x, w, None, window, self.to),
            On::Codes => integer::conv(&mut self.g, x, w, None, window, self.to),
            On::Values => {
                let x = dequantize(&mut self.g, x.codes, x.state, 1, self.to);
                let w = dequantize(&mut self.g, w.codes, w.state, inner, self.to);
                if is_depthwise { depthwise(&mut self.g, x, w, window) } else { conv2d(&mut self.g, x, w, window) }
            }
        };
        // A norm that brings sums of some tens of products near 1.
        let (scale, shift) =
            (self.vector(weight[0], 1.5 / (inner as f32).sqrt(), 0.3 / (inner as f32).sqrt()), self.vector(weight[0], 0.2, 0.3));
        if self.norms { scale_shift(&mut self.g, y, scale, shift) } else { y }
    }

    fn linear(&mut self, x: Codes, weight: [usize; 2]) -> Var {
        let ((w, inner), bias) = (self.weights(&weight, x.bits), self.vector(weight[0], 0.0, 1.0));
        self.trained.push(bias);
        if self.on == On::Codes {
            return integer::linear(&mut self.g, x, w, Some(bias), self.to);
        }
        let x = dequantize(&mut self.g, x.codes, x.state, 1, self.to);
        let w = dequantize(&mut self.g, w.codes, w.state, inner, self.to);
        linear::linear(&mut self.g, x, w, Some(bias))
    }

    /// A stem of 8 bits, a residual block of 4, a depthwise block, and a linear layer on the mean.
    fn build(mut self) -> (Graph, Values) {
        self.forward();
        (self.g, self.values)
    }

    /// The same with the gradients of what is trained, of a loss with a gradient of about 1 everywhere.
    fn build_training(mut self) -> (Graph, Values) {
        let logits = self.forward();
        let weights = self.g.constant(noise(self.g.shape(logits).dims(), 5));
        let product = binary::mul(&mut self.g, logits, weights);
        let loss = reduce::total(&mut self.g, product);
        let gradients = self.g.backward(loss, &self.trained);
        for (i, gradient) in gradients.into_iter().enumerate() {
            self.g.output(&format!("gradient {i:02}"), gradient.expect("a gradient"));
        }
        (self.g, self.values)
    }

    fn forward(&mut self) -> Var {
        let image = noise([2, 15, 13, 3], 77).cast(self.to);
        let image = self.input(image);
        let x = self.activations(image, 8, true);
        let y = self.conv(x, [16, 7, 7, 3], 2);
        let trunk = unary::relu(&mut self.g, y);
        let trunk = self.kept(trunk);

        let x = self.activations(trunk, 4, false);
        let y = self.conv(x, [8, 1, 1, 16], 1);
        let y = unary::relu(&mut self.g, y);
        let x = self.activations(y, 4, false);
        let y = self.conv(x, [8, 3, 3, 8], 1);
        let y = unary::relu(&mut self.g, y);
        let x = self.activations(y, 4, false);
        let y = self.conv(x, [16, 1, 1, 8], 1);
        let sum = binary::add(&mut self.g, y, trunk);
        let trunk = unary::relu(&mut self.g, sum);
        let trunk = self.kept(trunk);

        let x = self.activations(trunk, 4, false);
        let y = self.conv(x, [16, 3, 3, 1], 1);
        let y = unary::relu6(&mut self.g, y);
        let x = self.activations(y, 4, false);
        let y = self.conv(x, [20, 1, 1, 16], 1);
        let mean = reduce::global_average_pool(&mut self.g, y);
        let mean = unary::cast(&mut self.g, mean, self.to);
        let x = self.activations(mean, 8, true);
        let logits = self.linear(x, [5, 20]);
        self.g.output("codes", x.codes);
        self.g.output("trunk", trunk);
        self.g.output("logits", logits);
        logits
    }
}

fn run(graph: &Graph, values: &Values, variant: usize) -> Values {
    let (params, mut values): (Values, Values) = values.clone().into_iter().partition(|(name, _)| graph.params().contains_key(name));
    values.retain(|name, _| graph.inputs().any(|(input, _)| input == name));
    let params = Params::upload(gpu(), &params).expect("the device works");
    let options = PlanOptions { variant: Some(variant), ..PlanOptions::default() };
    let plan = Plan::compile(gpu(), graph, &params, &mut Scratch::default(), options).expect("the device works");
    plan.poison(0x7FC0_1234);
    plan.call(&values).expect("the device works")
}

fn count(graph: &Graph, op: &str) -> usize {
    graph.nodes().iter().filter(|node| node.op.name() == op).count()
}

#[track_caller]
fn assert_same(found: &Values, expected: &Values, what: &str) {
    for (name, expected) in expected {
        compare(&found[name], expected, Tolerance::EXACT).unwrap_or_else(|e| panic!("{what}: {name}: {e}"));
    }
}

#[test]
fn a_network_on_codes_is_the_same_to_the_bit_everywhere() {
    for to in [DType::F32, DType::F16] {
        let (graph, values) = Net::new(On::Codes, true, to).build();
        let fused = fuse(&graph, &|_| false);
        let twin = interpret(&fused, &values, &Values::new());
        for variant in [0, 1, 99] {
            assert_same(&run(&fused, &values, variant), &twin, &format!("{to}, variant {variant}"));
        }
    }
}

#[test]
fn skip_connections_of_codes_are_the_same_to_the_bit_everywhere() {
    for to in [DType::F32, DType::F16] {
        let mut net = Net::new(On::Codes, true, to);
        (net.compact, net.in_use) = (true, true);
        let (graph, values) = net.build();
        let fused = fuse(&graph, &|_| false);
        // The trunk is an output, and its values the only floats of codes.
        assert_eq!([count(&graph, "dequantize"), count(&fused, "dequantize")], [2, 1]);
        let (params, inputs): (Values, Values) = values.clone().into_iter().partition(|(name, _)| graph.params().contains_key(name));
        let twin = interpret(&fused, &inputs, &params);
        for variant in [0, 1, 99] {
            assert_same(&run(&fused, &values, variant), &twin, &format!("{to}, variant {variant}"));
        }
    }
}

/// The 64-bit FNV-1a hash of all results' bytes, in the order of their names.
fn hash(values: &Values) -> u64 {
    let bytes = values.values().flat_map(Host::as_bytes);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Of the network below in f32, on every machine: software Vulkan, and an NVIDIA H100 with driver 580.159 on 2026-11-26.
const HASH: u64 = 0x5a99_fcdf_46f1_597e;

#[test]
fn the_bits_are_those_of_every_machine_so_far() {
    let (graph, values) = Net::new(On::Codes, true, DType::F32).build();
    let found = hash(&run(&fuse(&graph, &|_| false), &values, 0));
    assert_eq!(found, HASH, "{found:#018x}, not {HASH:#018x}: this device computes other codes than others did");
}

#[test]
fn fusing_leaves_the_products_alone() {
    let (graph, _) = Net::new(On::Codes, true, DType::F32).build();
    let fused = fuse(&graph, &|_| false);
    for gone in ["scale_shift", "unary", "binary"] {
        assert!(count(&graph, gone) > 0 && count(&fused, gone) == 0, "{} nodes of {gone} are left", count(&fused, gone));
    }
    // Left are the quantizers of seven weights, of the image and of the mean.
    assert_eq!([count(&graph, "quantize"), count(&fused, "quantize")], [14, 9]);
}

#[test]
fn fusing_changes_no_bit_where_no_norm_is_folded() {
    let (mut graph, values) = Net::new(On::Codes, false, DType::F16).build();
    // In f16 a sum with a skip connection is rounded once less when it is fused: there only what is before it is compared, the
    // codes behind the second convolution.
    let before = graph.nodes().iter().filter(|n| n.op.name() == "quantize").nth(6).map(|n| n.outputs[0]);
    for name in ["codes", "trunk", "logits"] {
        graph.output(name, before.expect("a quantizer"));
    }
    for (graph, values) in [Net::new(On::Codes, false, DType::F32).build(), (graph, values)] {
        let fused = fuse(&graph, &|_| false);
        assert!(count(&fused, "quantize") < count(&graph, "quantize"));
        assert_same(&interpret(&fused, &values, &Values::new()), &interpret(&graph, &values, &Values::new()), "fused");
    }
}

#[test]
fn a_network_on_codes_computes_what_fake_quantization_does() {
    let (codes, values) = Net::new(On::Codes, true, DType::F32).build();
    let (floats, same) = Net::new(On::Values, true, DType::F32).build();
    assert_eq!(values.keys().collect::<Vec<_>>(), same.keys().collect::<Vec<_>>());
    let expected = interpret(&floats, &same, &Values::new());
    let found = interpret(&fuse(&codes, &|_| false), &values, &Values::new());
    for name in ["trunk", "logits"] {
        compare(&found[name], &expected[name], Tolerance::of(1e-5)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let spread = expected[name].to_f32().iter().fold((f32::MAX, f32::MIN), |(a, b), &v| (a.min(v), b.max(v)));
        assert!(spread.1 - spread.0 > 0.5, "{name} is all alike: {spread:?}");
    }
}

#[test]
fn training_on_codes_has_the_gradients_of_fake_quantization() {
    let (codes, values) = Net::new(On::Codes, true, DType::F32).build_training();
    let (floats, _) = Net::new(On::Values, true, DType::F32).build_training();
    let expected = interpret(&floats, &values, &Values::new());
    let fused = fuse(&codes, &|_| false);
    // What a backward reads is still there; the products write it beside the codes.
    assert_eq!([count(&codes, "quantize"), count(&fused, "quantize"), count(&fused, "scale_shift")], [14, 9, 0]);
    let found = [interpret(&fused, &values, &Values::new()), run(&fused, &values, 0), run(&fused, &values, 99)];
    assert!(expected.len() > 30);
    for (name, expected) in &expected {
        // Sums over hundreds of pixels and channels, in another order.
        let tolerance = Tolerance { absolute: 1e-4 * size(expected), relative: 1e-4 };
        for found in &found {
            compare(&found[name], expected, tolerance).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

/// What a transformer has before its quantizers: a norm, a sum read twice, a product of several step sizes, and a map of rows that no
/// word divides, of which something else reads the sum and the map too if `keep` says so.
fn before_quantizers(to: DType, keep: bool) -> (Graph, Values) {
    let mut net = Net::new(On::Codes, false, to);
    let [x, positions] = [1, 2].map(|seed| net.input(noise([2, 32, 24], seed).cast(to)));
    let (weight, bias) = (net.vector(24, 1.0, 0.4), net.vector(24, 0.0, 0.4));
    let norm = layer_norm(&mut net.g, x, weight, bias, 1e-5);
    let sum = binary::add(&mut net.g, norm, positions);
    let [value, query, key] = [norm, sum, sum].map(|x| net.activations(x, 4, true));
    let projected = net.linear(query, [24, 24]);
    let logits = net.input(Host::f32([2, 3, 32, 35], noise([2, 3, 32, 35], 3).to_f32().iter().map(|v| 5.0 * v).collect()).cast(to));
    let mask = net.input(Host::u32([2, 35], (0..70).map(|i| u32::from(i % 5 != 2)).collect()));
    let map = softmax(&mut net.g, logits, Some(mask));
    let of_heads = |net: &mut Net, x: Var, alpha: f32, inner: usize| {
        let levels = Levels::new(8, false);
        let (alpha, zp) = (net.vector(3, alpha, 0.3 * alpha), net.vector(3, 4.0, 3.0));
        let state = quantizer_state(&mut net.g, alpha, Some(zp), levels);
        quantize(&mut net.g, x, state, levels, inner)
    };
    let (projected_codes, map_codes) = (of_heads(&mut net, projected, 0.02, 8), of_heads(&mut net, map, 0.001, 1120));
    let codes = [("value", value.codes), ("query", query.codes), ("key", key.codes), ("projected", projected_codes), ("map", map_codes)];
    let floats = [("norm", norm), ("sum", sum), ("softmax", map)];
    for (name, var) in codes.into_iter().chain(floats.into_iter().filter(|_| keep)) {
        net.g.output(name, var);
    }
    (net.g, net.values)
}

#[test]
fn what_writes_codes_writes_those_of_the_quantizers_behind_it() {
    for (to, keep) in [(DType::F32, true), (DType::F32, false), (DType::F16, true), (DType::F16, false)] {
        let (graph, values) = before_quantizers(to, keep);
        let fused = fuse(&graph, &|_| false);
        // That of the weights is left.
        assert_eq!([count(&graph, "quantize"), count(&fused, "quantize")], [6, 1]);
        for variant in [0, 99] {
            assert_same(&run(&fused, &values, variant), &run(&graph, &values, 0), &format!("{to}, {keep}, variant {variant}"));
        }
    }
}

/// Layers in use whose quantizers are alike: a norm that two read, and two its sum with something, each with a linear layer behind it; a
/// pool that two read; and what they give, added, which two read. The sum is read by something else too if `keep` says so.
fn alike_quantizers(to: DType, keep: bool) -> (Graph, Values) {
    let mut net = Net { in_use: true, ..Net::new(On::Codes, false, to) };
    let [x, positions] = [1, 2].map(|seed| net.input(noise([2, 32, 24], seed).cast(to)));
    let (weight, bias) = (net.vector(24, 1.0, 0.4), net.vector(24, 0.0, 0.4));
    let norm = layer_norm(&mut net.g, x, weight, bias, 1e-5);
    let sum = binary::add(&mut net.g, norm, positions);
    let codes: Vec<Codes> = [norm, norm, sum, sum].into_iter().map(|x| net.activations(x, 4, true)).collect();
    for (i, codes) in codes.into_iter().enumerate() {
        let y = net.linear(codes, [32, 24]);
        let levels = Levels::new(8, true);
        let alpha = net.vector(4, 0.02, 0.005);
        let state = quantizer_state(&mut net.g, alpha, None, levels);
        let codes = quantize(&mut net.g, y, state, levels, 8);
        net.g.output(&format!("projected {i}"), codes);
    }
    if keep {
        net.g.output("sum", sum);
    }
    let image = net.input(noise([1, 8, 8, 16], 3).cast(to));
    let pooled = max_pool(&mut net.g, image, 3, 2, 1);
    let both = |net: &mut Net, x: Var| {
        [1, 3].map(|side| {
            let codes = net.activations(x, 4, false);
            net.conv(codes, [16, side, side, 16], 1)
        })
    };
    let [a, b] = both(&mut net, pooled);
    let sum = binary::add(&mut net.g, a, b);
    let y = unary::relu(&mut net.g, sum);
    for (i, y) in both(&mut net, y).into_iter().enumerate() {
        net.g.output(&format!("convolved {i}"), y);
    }
    (net.g, net.values)
}

#[test]
fn alike_quantizers_and_the_layers_behind_them_share_launches() {
    for (to, keep) in [(DType::F32, true), (DType::F32, false), (DType::F16, true), (DType::F16, false)] {
        let (graph, values) = alike_quantizers(to, keep);
        let fused = fuse(&graph, &|_| false);
        let counts = ["quantize", "layer_norm_codes", "binary_codes", "max_pool_codes", "integer_linear", "integer_conv"];
        // The quantizers of eight weights are left.
        let expected = if keep { [8, 1, 1, 1, 2, 4] } else { [8, 1, 0, 1, 1, 4] };
        assert_eq!(counts.map(|op| count(&fused, op)), expected, "{fused}");
        let trained = fuse(&graph, &|_| true);
        assert_eq!(count(&trained, "integer_linear"), 4, "weights that change are not joined");
        // In f16 a sum with a skip connection is rounded once less when it is fused.
        let is_unlike = |name: &str| to == DType::F16 && name.starts_with("convolved");
        let mut expected = run(&graph, &values, 0);
        expected.extend(interpret(&fused, &values, &values).into_iter().filter(|(name, _)| is_unlike(name)));
        for variant in [0, 1, 99] {
            assert_same(&run(&fused, &values, variant), &expected, &format!("{to}, {keep}, variant {variant}"));
        }
    }
}

/// Attention on codes of so many queries to so many keys, whose map is an output too where a training would read it.
fn attention(to: DType, [queries, keys]: [usize; 2], trains: bool) -> (Graph, Values) {
    let mut net = Net::new(On::Codes, false, to);
    let of_heads = |net: &mut Net, x: Var, alpha: f32, signed: bool, inner: usize| {
        let levels = Levels::new(8, signed);
        let (alpha, zp) = (net.vector(2, alpha, 0.3 * alpha), net.vector(2, 4.0, 3.0));
        let state = quantizer_state(&mut net.g, alpha, Some(zp), levels);
        HeadCodes { codes: quantize(&mut net.g, x, state, levels, inner), state }
    };
    let [q, k, v] = [queries, keys, keys].map(|length| {
        let tokens = Host::f32([2, length, 64], noise([2, length, 64], net.values.len() as u64).to_f32().iter().map(|v| 2.0 * v).collect());
        let tokens = net.input(tokens.cast(to));
        of_heads(&mut net, tokens, 0.02, true, 32)
    });
    let mask = net.input(Host::u32([2, keys], (0..2 * keys).map(|i| u32::from(i % 5 != 2)).collect()));
    let scores = head_codes::scores(&mut net.g, q, k, 2, to);
    let map = softmax(&mut net.g, scores, Some(mask));
    let map_codes = of_heads(&mut net, map, 0.001, false, queries * keys);
    let y = head_codes::mix(&mut net.g, map_codes, v, to);
    net.g.output("y", y);
    if trains {
        net.g.output("map", map);
    }
    (net.g, net.values)
}

#[test]
fn attention_in_use_has_the_bits_of_attention_in_training() {
    for (to, keys) in [(DType::F32, 70), (DType::F16, 70), (DType::F32, 301), (DType::F16, 301), (DType::F16, 850)] {
        let (trained, values) = attention(to, [21, keys], true);
        let (used, _) = attention(to, [21, keys], false);
        let longest = |g: &Graph| g.nodes().iter().flat_map(|n| &n.outputs).map(|&v| g.shape(v).last()).max();
        let (trained, used) = (fuse(&trained, &|_| false), fuse(&used, &|_| false));
        assert_eq!([longest(&trained), longest(&used)], [Some(keys), Some(keys.next_multiple_of(16))], "the map in use is padded");
        let expected = run(&trained, &values, 0)["y"].clone();
        for variant in [0, 1, 2, 99] {
            let found = run(&used, &values, variant);
            assert_same(&found, &[("y".to_owned(), expected.clone())].into(), &format!("{to}, {keys} keys, variant {variant}"));
        }
    }
}

#[test]
fn attention_in_one_kernel_has_the_bits_of_attention_in_training() {
    let matrix = Capabilities { f16: true, matrix: true, workgroup_memory: 48 << 10, tier: Tier::Matrix, ..Capabilities::WEBGPU };
    let bytes = Capabilities { byte_matrix: true, invocations: 1024, ..matrix };
    for (to, queries, keys) in [
        (DType::F32, 16, 65),
        (DType::F16, 100, 100),
        (DType::F16, 33, 160),
        (DType::F32, 18, 401),
        (DType::F16, 50, 850),
        (DType::F32, 50, 864),
        (DType::F16, 19, 1050),
        (DType::F32, 19, 1900),
    ] {
        let (trained, values) = attention(to, [queries, keys], true);
        let used = fuse_for(&attention(to, [queries, keys], false).0, &bytes);
        assert_eq!([count(&used, "integer_attention"), count(&used, "integer_scores")], [1, 0]);
        let expected = run(&fuse(&trained, &|_| false), &values, 0)["y"].clone();
        let distinct: BTreeSet<u32> = expected.to_f32().iter().map(|v| v.to_bits()).collect();
        assert!(distinct.len() > 100, "{} different numbers", distinct.len());
        for variant in [0, 1, 99] {
            let found = run(&used, &values, variant);
            assert_same(&found, &[("y".to_owned(), expected.clone())].into(), &format!("{to}, {queries} x {keys}, variant {variant}"));
        }
    }
}

/// A layer of K to 256 channels on codes with a skip connection and a norm, of which there are floats and the codes of three quantizers, one of
/// them of the sum with positions. What the norm is of is an output too where a training would read it.
fn layer_and_norm(to: DType, [rows, k]: [usize; 2], trains: bool) -> (Graph, Values) {
    let mut net = Net::new(On::Codes, false, to);
    net.in_use = true;
    let x = net.input(noise([1, rows, k], 1).cast(to));
    let x = net.activations(x, 4, true);
    let y = net.linear(x, [256, k]);
    let [skip, positions] = [2, 3].map(|seed| net.input(noise([1, rows, 256], seed).cast(to)));
    let sum = binary::add(&mut net.g, y, skip);
    let (weight, bias) = (net.vector(256, 1.0, 0.5), net.vector(256, 0.0, 0.3));
    let y = layer_norm(&mut net.g, sum, weight, bias, 1e-5);
    let with_positions = binary::add(&mut net.g, y, positions);
    for (name, of) in [("a", y), ("b", y), ("c", with_positions)] {
        let codes = net.activations(of, 4, true).codes;
        net.g.output(name, codes);
    }
    net.g.output("y", y);
    if trains {
        net.g.output("sum", sum);
    }
    (net.g, net.values)
}

#[test]
fn a_layer_with_its_norm_in_one_kernel_has_the_bits_of_both_in_training() {
    let matrix = Capabilities { f16: true, matrix: true, workgroup_memory: 48 << 10, tier: Tier::Matrix, ..Capabilities::WEBGPU };
    let bytes = Capabilities { byte_matrix: true, ..matrix };
    for (to, rows, k) in [(DType::F16, 100, 256), (DType::F32, 35, 256), (DType::F16, 850, 128), (DType::F32, 17, 400)] {
        let (trained, values) = layer_and_norm(to, [rows, k], true);
        let [trained, used] = [fuse(&trained, &|_| false), fuse_for(&layer_and_norm(to, [rows, k], false).0, &bytes)];
        assert_eq!([count(&used, "integer_linear_norm"), count(&used, "layer_norm_codes")], [1, 0]);
        assert_eq!([count(&trained, "integer_linear_norm"), count(&trained, "layer_norm_codes")], [0, 1]);
        let mut expected = run(&trained, &values, 0);
        let distinct: BTreeSet<u32> = expected["y"].to_f32().iter().map(|v| v.to_bits()).collect();
        assert!(distinct.len() > 1000, "{} different numbers", distinct.len());
        expected.remove("sum");
        for variant in [0, 99] {
            assert_same(&run(&used, &values, variant), &expected, &format!("{to}, {rows} x {k}, variant {variant}"));
        }
    }
}

/// The largest element.
fn size(host: &Host) -> f32 {
    if host.dtype() == DType::I8 { 0.0 } else { host.to_f32().iter().fold(0.0, |m, v| v.abs().max(m)) }
}
