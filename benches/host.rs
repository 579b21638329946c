//! What the host does around the device's work. The device has its own tool: `qdetr bench`.
//!
//! `cargo bench` takes a minute.

use criterion::{Criterion, criterion_group, criterion_main};
use qdetr::data::image;
use qdetr::data::preprocess::{Batch, Resize, Sample};
use qdetr::gpu::{Gpu, Options};
use qdetr::graph::check::noise;
use qdetr::graph::{Graph, Params, Plan, PlanOptions, Scratch, Values};
use qdetr::kernels::unary;
use qdetr::tensor::TensorType;
use qdetr::train::matcher::{Matcher, Predictions, Targets};
use std::path::Path;
use std::time::{Duration, Instant};

/// Pictures in a batch.
const IMAGES: usize = 8;

/// The bytes of a photo.
fn photo() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/images/bear.jpg");
    std::fs::read(path).expect("a photo that is in the repository")
}

fn decode(c: &mut Criterion) {
    let bytes = photo();
    c.bench_function("decode a JPEG", |b| b.iter(|| image::decode(&bytes, "photo")));
}

fn preprocess(c: &mut Criterion) {
    let picture = image::decode(&photo(), "photo").expect("a photo");
    let resize = Resize { shorter: 480, longer: 640 };
    c.bench_function("resize a picture", |b| b.iter(|| Sample::new(&picture, resize)));
    let samples: Vec<Sample> = (0..IMAGES).map(|_| Sample::new(&picture, resize)).collect();
    c.bench_function("pad a batch of 8", |b| b.iter(|| Batch::new(&samples, None)));
}

/// DETR's queries and classes, COCO's mean number of objects.
fn matching(c: &mut Criterion) {
    let (queries, classes, objects) = (100, 92, 7);
    let logits = noise([IMAGES, queries, classes], 1);
    let centred = |seed: u64, n: usize| -> Vec<f32> { noise([n, 4], seed).to_f32().iter().map(|v| 0.5 + 0.2 * v).collect() };
    let boxes = centred(2, IMAGES * queries);
    let objects_of = |image: usize| Targets {
        labels: (0..objects).collect(),
        boxes: bytemuck::cast_slice(&centred(10 + image as u64, objects)).to_vec(),
    };
    let targets: Vec<Targets> = (0..IMAGES).map(objects_of).collect();
    let logits = logits.to_f32();
    let predictions = Predictions { logits: &logits, boxes: &boxes, classes };
    let layers = [predictions; 6];
    c.bench_function("match 6 layers of a batch of 8", |b| b.iter(|| Matcher::DETR.match_layers(&layers, &targets, 1)));
}

/// As many launches as a small detector has, each on four numbers: a software driver will do.
fn encode(c: &mut Criterion) {
    const LAUNCHES: usize = 200;
    let gpu = Gpu::open(&Options::default()).expect("a Vulkan, Metal or DX12 adapter; a software one will do");
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::f32([4]));
    let y = (0..LAUNCHES).fold(x, |y, _| unary::negate(&mut graph, y));
    graph.output("y", y);
    let params = Params::upload(&gpu, &Values::new()).expect("the device works");
    let plan = Plan::compile(&gpu, &graph, &params, &mut Scratch::default(), PlanOptions::default()).expect("the device works");
    let run = |n: u64| {
        let mut spent = Duration::ZERO;
        for _ in 0..n {
            let started = Instant::now();
            plan.run().expect("the device works");
            spent += started.elapsed();
            gpu.wait().expect("the device works");
        }
        spent
    };
    c.bench_function("encode and submit a run of 200 launches", |b| b.iter_custom(run));
}

criterion_group! {
    name = host;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4));
    targets = decode, preprocess, matching, encode
}
criterion_main!(host);
