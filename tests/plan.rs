//! Plans of whole models: the same as the interpreter, repeatable, without allocations in a run, within their memory.

mod common;
#[path = "common/hashed.rs"]
mod hashed;

use common::gpu;
use hashed::golden;
use qdetr::data::Entry;
use qdetr::data::preprocess::{Batch, Resize, Sample, Size};
use qdetr::gpu::{Capabilities, Gpu, Options, Tier};
use qdetr::graph::check::{noise, trace};
use qdetr::graph::{Graph, Needs, Params, Plan, PlanOptions, Scratch, Values, fold, fuse, fuse_for, interpret, within};
use qdetr::kernels::position::Valid;
use qdetr::models::config::{Attention, Backbone, Block, ResNet};
use qdetr::models::smca::Image;
use qdetr::models::transformer::{Tokens, decoder, encoder};
use qdetr::models::{BatchSize, Detector, ModelConfig, Results, Session, detector, detr};
use qdetr::nn::{Net, Precision};
use qdetr::quant::{Preset, Quantization};
use qdetr::tensor::compare::{Tolerance, compare};
use qdetr::tensor::{DType, Host, TensorType};
use std::time::{Duration, Instant};

fn small() -> ModelConfig {
    let widths = [16, 24, 32, 48];
    ModelConfig {
        backbone: Backbone::Resnet(ResNet { block: Block::Bottleneck, depths: [1, 2, 1, 1], stem: 16, widths, dilated_c5: false }),
        d_model: 32,
        heads: 4,
        encoder_layers: 2,
        decoder_layers: 2,
        ffn: 48,
        queries: 9,
        classes: 5,
        class_names: Vec::new(),
        alignment: Default::default(),
        resize: None,
        quantization: None,
        attention: Attention::Plain,
    }
}

fn size(images: usize, height: usize, width: usize) -> BatchSize {
    BatchSize { images, height, width }
}

/// The small model's graph, fused and folded, with hashed parameters.
fn prepared(size: BatchSize, precision: Precision) -> (Graph, Values) {
    let (graph, specs) = detr(&small(), (size, Entry::Floats), precision, Results::Everything).into_parts();
    let graph = fuse(&graph, &|_| false);
    let folded = fold(&graph, &|_| false);
    let params = folded.evaluate(&hashed::params(&specs), &|_| true);
    (folded.graph, params)
}

fn compiled(gpu: &Gpu, graph: &Graph, params: &Values) -> Plan {
    let params = Params::upload(gpu, params).expect("room for a small model");
    Plan::compile(gpu, graph, &params, &mut Scratch::default(), PlanOptions::default()).expect("a plan")
}

fn detector(config: ModelConfig) -> Detector {
    let params = hashed::params(&detector::specs(&config).expect("a good configuration"));
    Detector::new(gpu(), config, params, Precision::F32, Results::Answers).expect("a detector")
}

/// Hashed inputs whose second image fills only a part of the batch's size.
fn padded_inputs(size: BatchSize) -> Values {
    let mut inputs = hashed::inputs(size);
    let (plane, width) = (size.height * size.width, size.width);
    let inside = |i: usize| i < plane || (i % plane / width < size.height * 2 / 3 && i % width < width / 2);
    let mask: Vec<u32> = (0..size.images * plane).map(|i| u32::from(inside(i))).collect();
    let pixels = inputs["pixel_values"].to_f32().iter().enumerate().map(|(i, &v)| v * mask[i / 3] as f32).collect();
    inputs.insert("pixel_values".into(), Host::f32([size.images, size.height, size.width, 3], pixels));
    inputs.insert("pixel_mask".into(), Host::u32([size.images, size.height, size.width], mask));
    inputs
}

#[test]
fn a_plan_computes_what_the_interpreter_computes() {
    let size = size(2, 61, 83);
    let (graph, specs) = detr(&small(), (size, Entry::Floats), Precision::F32, Results::Everything).into_parts();
    let inputs = padded_inputs(size);
    let expected = interpret(&graph, &inputs, &hashed::params(&specs));
    let (graph, params) = prepared(size, Precision::F32);
    let found = compiled(gpu(), &graph, &params).call(&inputs).expect("a run");
    assert_eq!(found.len(), 10);
    for (name, expected) in &expected {
        compare(&found[name], expected, Tolerance::of(1e-4)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn in_less_memory_the_first_layers_run_on_parts_of_the_batch() {
    // Where skip connections are codes, the first layers have less to save.
    for (preset, percent) in [(None, 80), (Some(Preset::Executable), 80), (Some(Preset::Compact), 90)] {
        let low = |preset| Quantization { preset, ..Quantization::new("4-4-8".parse().expect("bits")) };
        let config = ModelConfig { quantization: preset.map(low), ..small() };
        let (given, inputs) = ((size(4, 61, 83), Entry::Floats), padded_inputs(size(4, 61, 83)));
        let params = hashed::params(&detector::specs(&config).expect("a good configuration"));
        let session = |memory| {
            let config = config.clone();
            let build = move |given| detr(&config, given, Precision::F32, Results::Answers).into_parts().0;
            Session::new(gpu(), params.clone(), build).expect("a session").with_memory(memory)
        };
        let mut whole = session(None);
        let taken = whole.plan(given).expect("a plan").memory().total();
        let mut parts = session(Some(taken * percent / 100));
        let memory = parts.plan(given).expect("a plan in parts").memory().total();
        assert!(memory <= taken * percent / 100, "{preset:?}: {memory} of {taken}");
        let inputs = || inputs.iter().map(|(name, host)| (name.as_str(), host));
        let (expected, found) = (whole.call(given, inputs()).expect("a run"), parts.call(given, inputs()).expect("a run"));
        assert!(!expected.is_empty() && expected.len() == found.len());
        for (name, expected) in &expected {
            compare(&found[name], expected, Tolerance::of(1e-5)).unwrap_or_else(|e| panic!("{preset:?} {name}: {e}"));
        }
        let refused = session(Some(1000)).plan(given).expect_err("too little").to_string();
        assert!(refused.contains("4 × 61 × 83") && refused.contains("1000 are allowed"), "{refused}");
    }
}

/// What README says; no device is asked.
#[test]
fn activations_of_detr_r50_in_four_bits_take_half_of_what_they_take_in_f16() {
    let bytes = Capabilities {
        f16: true,
        matrix: true,
        byte_matrix: true,
        workgroup_memory: 48 << 10,
        invocations: 1024,
        subgroup: (32, 32),
        tier: Tier::Matrix,
        ..Capabilities::WEBGPU
    };
    let folded = |quantization: Option<Quantization>, images| {
        let config = ModelConfig { quantization, ..ModelConfig::detr("resnet50").unwrap() };
        let graph = detr(&config, (size(images, 800, 1066), Entry::Bytes), Precision::F16, Results::Answers).into_parts().0;
        fold(&fuse_for(&graph, &bytes), &|_| false).graph
    };
    let low = Quantization::new("4-4-8".parse().expect("bits"));
    for images in [1, 8] {
        let [low, f16] = [Some(low.clone()), None].map(|quantization| Needs::of(&folded(quantization, images), &|_| false));
        let [low, f16]: [usize; 2] = [low, f16].map(|needs| needs.scratch.iter().sum());
        assert!(2 * low <= f16, "{images} pictures: {low} of {f16} bytes");
    }
    // With skip connections in floats, whole and in parts.
    let floats = |images| folded(Some(Quantization { preset: Preset::Executable, ..low.clone() }), images);
    let megabytes = |graph: &Graph| Needs::of(graph, &|_| false).total().div_ceil(1_000_000);
    let whole = floats(8);
    let parts = within(&whole, 8, 300_000_000, floats).expect("it fits in parts");
    assert_eq!([megabytes(&whole), megabytes(&parts)], [639, 292]);
}

#[test]
fn every_node_agrees_with_its_twin() {
    let size = size(2, 61, 83);
    for (precision, tolerance) in [(Precision::F32, 2e-5), (Precision::F16, 1e-2)] {
        if precision.check(gpu()).is_err() {
            println!("skipped: no f16");
            continue;
        }
        let (graph, params) = prepared(size, precision);
        let (nodes, wrong) = trace(gpu(), &graph, &padded_inputs(size), &params, Tolerance::of(tolerance)).expect("a run");
        assert_eq!((nodes, wrong), (graph.nodes().len(), None), "{precision:?}");
        assert!(nodes > 50, "{nodes}");
    }
}

#[test]
fn f16_goes_through_the_whole_model() {
    let (graph, _) = prepared(size(1, 61, 83), Precision::F16);
    let wide: Vec<String> = graph
        .nodes()
        .iter()
        .filter(|node| graph.ty(node.outputs[0]).dtype == DType::F32 && graph.shape(node.outputs[0]).len() > 100)
        .map(|node| format!("{} in {}", node.op.name(), node.scope))
        .collect();
    // Only the casts of what the test asks to see: the feature map, the memory, two decoder layers.
    assert!(wide.iter().all(|node| node.starts_with("unary")) && wide.len() == 4, "{wide:?}");
}

#[test]
fn what_was_in_scratch_does_not_matter() {
    let (graph, params) = prepared(size(2, 61, 83), Precision::F32);
    let (plan, inputs) = (compiled(gpu(), &graph, &params), padded_inputs(size(2, 61, 83)));
    let run = |pattern| {
        plan.poison(pattern);
        plan.call(&inputs).expect("a run")
    };
    let (a, b, c) = (run(0x7FC0_1234), run(0xC0DE_4321), plan.call(&inputs).expect("a run"));
    assert!(bits(&a) == bits(&b), "two patterns in scratch");
    assert!(bits(&a) == bits(&c), "a second run");
}

fn bits(values: &Values) -> Vec<(&str, &[u8])> {
    values.iter().map(|(name, host)| (name.as_str(), host.as_bytes())).collect()
}

#[test]
fn a_run_allocates_nothing_and_reads_back_once() {
    let gpu = Gpu::open(&Options { no_disk_cache: true, ..Options::default() }).expect("a device");
    let (graph, params) = prepared(size(1, 61, 83), Precision::F32);
    let (plan, inputs) = (compiled(&gpu, &graph, &params), hashed::inputs(size(1, 61, 83)));
    let count = || {
        let c = gpu.counters();
        let made = [c.buffers(), c.bytes_allocated(), c.pipelines(), c.bind_groups()];
        (made, [c.submits(), c.read_backs(), c.dispatches()])
    };
    let (made, [submits, read_backs, dispatches]) = count();
    assert!(made.iter().all(|&n| n > 0), "the counters count: {made:?}");
    for run in 1..=3 {
        plan.call(&inputs).expect("a run");
        let (now, [s, r, d]) = count();
        assert_eq!(now, made, "buffers, bytes, pipelines, bind groups after run {run}");
        assert!(s - submits >= run, "{s} submissions behind run {run}");
        assert_eq!([r - read_backs, d - dispatches], [run, run * plan.dispatches() as u64]);
    }
}

#[test]
fn the_text_of_a_plan() {
    let options = Options { webgpu_only: true, tier: Some(Tier::Portable), no_disk_cache: true, ..Options::default() };
    let gpu = Gpu::open(&options).expect("a device");
    let config = ModelConfig { encoder_layers: 1, decoder_layers: 1, ..small() };
    let (graph, specs) = detr(&config, (size(1, 32, 32), Entry::Bytes), Precision::F32, Results::Answers).into_parts();
    let graph = fuse(&graph, &|_| false);
    let folded = fold(&graph, &|_| false);
    let plan = compiled(&gpu, &folded.graph, &folded.evaluate(&hashed::params(&specs), &|_| true));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/plan.txt");
    if std::env::var_os("QDETR_WRITE_GOLDENS").is_some() {
        std::fs::write(path, plan.to_string()).expect("the golden can be written");
    }
    let expected = std::fs::read_to_string(path).expect("the golden");
    for (i, (found, expected)) in plan.to_string().lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "line {i} of the plan; if it is meant to change, run with QDETR_WRITE_GOLDENS=1 and read the diff");
    }
    assert_eq!(plan.to_string(), expected);
}

/// DETR-R50 at the size of most photos.
fn full_size(precision: Precision) -> (Graph, Values) {
    let config = ModelConfig::detr("resnet50").expect("a published model");
    let start = Instant::now();
    let (graph, specs) = detr(&config, (size(1, 800, 1066), Entry::Bytes), precision, Results::Answers).into_parts();
    let graph = fuse(&graph, &|_| false);
    let folded = fold(&graph, &|_| false);
    let took = start.elapsed();
    println!("{precision:?}: {} nodes, {} after fusion and folding, in {took:?}", graph.nodes().len(), folded.graph.nodes().len());
    assert!(took < Duration::from_millis(200), "building takes {took:?}");
    let zeros = specs.iter().map(|(name, spec)| (name.clone(), Host::zeros(TensorType::f32(spec.shape.dims())))).collect();
    let params = folded.evaluate(&zeros, &|_| true);
    (folded.graph, params)
}

#[test]
fn the_published_model_is_few_launches_and_little_memory() {
    for precision in [Precision::F32, Precision::F16] {
        if precision.check(gpu()).is_err() {
            println!("skipped: no f16");
            continue;
        }
        let (graph, params) = full_size(precision);
        let plan = compiled(gpu(), &graph, &params);
        let memory = plan.memory();
        println!("{precision:?}: {} dispatches, {memory:?}, {} bytes in all", plan.dispatches(), memory.total());
        assert!(plan.dispatches() <= 230, "{} dispatches", plan.dispatches());
        assert!(memory.scratch * 2 <= memory.live * 3, "{memory:?}");
        assert!(memory.total() * 2 <= (memory.params + memory.live + memory.io) * 3, "{memory:?}");
    }
}

#[test]
fn a_detector_runs_sizes_in_any_order() {
    let mut detector = detector(small());
    let mut run = |size: BatchSize| {
        let inputs = hashed::inputs(size);
        detector.run(&inputs["pixel_values"], &inputs["pixel_mask"]).expect("a run")
    };
    let first = run(size(1, 40, 50));
    // Larger scratch, another batch, then more sizes than are kept.
    for other in [size(1, 97, 131), size(3, 40, 50), size(1, 1, 1)] {
        run(other);
    }
    for height in 30..39 {
        run(size(1, height, 50));
    }
    assert!(bits(&run(size(1, 40, 50))) == bits(&first));
}

#[test]
fn a_known_size_compiles_nothing() {
    let gpu = Gpu::open(&Options { no_disk_cache: true, ..Options::default() }).expect("a device");
    let params = hashed::params(&detector::specs(&small()).expect("a good configuration"));
    let mut detector = Detector::new(&gpu, small(), params, Precision::F32, Results::Answers).expect("a detector");
    let memory = detector.plan(size(1, 40, 50)).expect("a plan").memory();
    assert!(memory.total() > memory.params && memory.scratch >= memory.live, "{memory:?}");
    detector.plan(size(1, 30, 30)).expect("a plan");
    let made = [gpu.counters().buffers(), gpu.counters().bind_groups()];
    for size in [size(1, 40, 50), size(1, 30, 30), size(1, 40, 50)] {
        let batch = Batch::noise(size.images, Size { width: size.width, height: size.height }).expect("a batch");
        detector.answer(&batch.pictures).expect("a run");
    }
    assert_eq!([gpu.counters().buffers(), gpu.counters().bind_groups()], made);
}

#[test]
fn images_of_a_batch_do_not_see_each_other() {
    let mut detector = detector(small());
    let both = hashed::inputs(size(2, 61, 83));
    let together = detector.run(&both["pixel_values"], &both["pixel_mask"]).expect("a run");
    let pixels = both["pixel_values"].to_f32();
    let mask = Host::u32([1, 61, 83], vec![1; 61 * 83]);
    for (i, pixels) in pixels.chunks(pixels.len() / 2).enumerate() {
        let alone = detector.run(&Host::f32([1, 61, 83, 3], pixels.to_vec()), &mask).expect("a run");
        for (name, alone) in &alone {
            let all = together[name].to_f32();
            let part = &all[i * all.len() / 2..(i + 1) * all.len() / 2];
            let part = Host::f32(alone.shape().dims(), part.to_vec());
            compare(&part, alone, Tolerance::of(1e-5)).unwrap_or_else(|e| panic!("image {i}, {name}: {e}"));
        }
    }
}

#[test]
fn what_lies_under_the_mask_does_not_matter() {
    let (config, cells) = (small(), 12);
    let mut net = Net::new(Precision::F32);
    let features = net.input("features", TensorType::f32([1, cells, 32]));
    let positions = net.input("positions", TensorType::f32([1, cells, 32]));
    let mask = net.input("mask", TensorType::new([1, cells], DType::U32));
    let memory = encoder(&mut net, &config, Tokens { features, positions, mask });
    let image = Image { valid: Valid::mask(mask), stride: 1, columns: cells };
    let layers = decoder(&mut net, &config, Tokens { features: memory, positions, mask }, image, 0).layers;
    net.output("hidden", layers[1]);
    let (graph, specs) = net.into_parts();
    let plan = compiled(gpu(), &graph, &hashed::params(&specs));
    let valid: Vec<u32> = (0..cells as u32).map(|i| u32::from(i % 4 < 3)).collect();
    let run = |under: f32, mask: &[u32]| {
        let values = noise([1, cells, 32], 1).to_f32().into_owned();
        let filled = values.iter().enumerate().map(|(i, &v)| if valid[i / 32] == 1 { v } else { under }).collect();
        let inputs = [
            ("features".to_owned(), Host::f32([1, cells, 32], filled)),
            ("positions".to_owned(), noise([1, cells, 32], 2)),
            ("mask".to_owned(), Host::u32([1, cells], mask.to_vec())),
        ];
        plan.call(&Values::from(inputs)).expect("a run")
    };
    let (a, b) = (run(0.0, &valid), run(7.5, &valid));
    assert!(bits(&a) == bits(&b));
    assert!(bits(&a) != bits(&run(7.5, &[1; 12])), "the mask does something");
}

#[test]
fn detections_are_of_every_picture_in_its_own_pixels() {
    let picture = |width, height| image::RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 7) as u8, (y * 5) as u8, 90]));
    let resize = Resize { shorter: 48, longer: 80 };
    let samples = [Sample::new(&picture(100, 60), resize), Sample::new(&picture(30, 70), resize)];
    let batch = Batch::new(&samples, None).expect("a batch");
    let mut detector = detector(small());
    let found = detector.detect(&batch, 0.0).expect("a run");
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [9, 9]);
    let threshold = found[0][3].score;
    let fewer = detector.detect(&batch, threshold).expect("a run");
    assert_eq!(fewer[0], found[0][..4]);
    assert!(found.iter().flatten().all(|d| d.label < 5 && (0.0..=1.0).contains(&d.score)));
}

#[test]
fn bytes_give_the_answers_of_the_floats_they_stand_for() {
    let picture = |width, height| image::RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 7) as u8, (y * 5) as u8, 90]));
    let samples = [(61, 41), (33, 83), (61, 83)].map(|(width, height)| {
        let image = picture(width, height);
        Sample { original: Size::of(&image), image }
    });
    let batch = Batch::new(&samples, None).expect("a batch");
    let (pixels, mask) = (batch.pictures.normalized(), batch.pictures.mask());
    for attention in [Attention::Plain, Attention::Smca] {
        for precision in [Precision::F32, Precision::F16].into_iter().filter(|precision| precision.check(gpu()).is_ok()) {
            let config = ModelConfig { attention, ..small() };
            let params = hashed::params(&detector::specs(&config).expect("a good configuration"));
            let mut detector = Detector::new(gpu(), config, params, precision, Results::Everything).expect("a detector");
            let (bytes, floats) = (detector.answer(&batch.pictures).expect("a run"), detector.run(&pixels, &mask).expect("a run"));
            assert!(bits(&bytes) == bits(&floats), "{attention:?} in {precision:?}");
        }
    }
}

#[test]
fn weights_that_are_no_numbers_are_an_error() {
    let mut params = hashed::params(&detector::specs(&small()).expect("a good configuration"));
    params.insert("class_embed.bias".into(), Host::f32([6], vec![f32::NAN; 6]));
    let mut detector = Detector::new(gpu(), small(), params, Precision::F32, Results::Answers).expect("a detector");
    let batch = Batch::new(&[Sample::new(&image::RgbImage::new(40, 40), Resize { shorter: 40, longer: 60 })], None).expect("a batch");
    assert!(matches!(detector.detect(&batch, 0.5), Err(qdetr::Error::NotFinite(_))));
}

#[test]
fn what_no_device_can_hold_is_refused_before_it_is_built() {
    let absurd = ModelConfig { queries: 1_000_000_000, ..small() };
    let refused = Detector::new(gpu(), absurd, Values::new(), Precision::F32, Results::Answers).expect_err("no such model");
    assert!(matches!(refused, qdetr::Error::Config(_)) && refused.to_string().contains("queries"), "{refused}");
    let mut detector = detector(small());
    let refused = detector.plan(size(1, 1 << 20, 1 << 20)).expect_err("no such image");
    assert!(matches!(refused, qdetr::Error::OutOfMemory(_)) && refused.to_string().contains("would fit"), "{refused}");
}

#[test]
fn f16_on_a_device_without_it_is_an_error() {
    let gpu = Gpu::open(&Options { webgpu_only: true, no_disk_cache: true, ..Options::default() }).expect("a device");
    let refused = Detector::new(&gpu, small(), Values::new(), Precision::F16, Results::Answers).expect_err("no f16");
    assert!(refused.to_string().contains("--precision f32"), "{refused}");
}

#[test]
fn a_golden_goes_through_a_detector() {
    let golden = golden("hf_basic/io.safetensors");
    assert_eq!(golden.size.images, 2);
    let mut detector = detector(golden.config);
    let found = detector.run(&golden.inputs["pixel_values"], &golden.inputs["pixel_mask"]).expect("a run");
    for name in ["logits", "pred_boxes"] {
        compare(&found[name], &golden.answers[name], Tolerance { absolute: 1e-4, relative: 0.0 }).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}
