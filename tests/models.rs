//! Whole models against PyTorch: the CPU interpreter and the GPU plan, in f32 and f16.

mod common;
#[path = "common/hashed.rs"]
mod hashed;

use common::gpu;
use hashed::{Golden, golden};
use qdetr::data::Entry;
use qdetr::data::image;
use qdetr::data::labels::imagenet1000;
use qdetr::data::preprocess::{Batch, Sample, Size, imagenet_view};
use qdetr::graph::{Params, Plan, PlanOptions, Scratch, Values, fold, fuse, interpret};
use qdetr::models::{BatchSize, Classifier, Detector, Results, detector, detr};
use qdetr::nn::{Net, Precision};
use qdetr::tensor::compare::{Tolerance, compare};
use qdetr::weights::{Extras, fit, load};
use std::path::Path;

const EXACT: Tolerance = Tolerance { absolute: 1e-4, relative: 0.0 };
const HALF: Tolerance = Tolerance { absolute: 2e-2, relative: 0.0 };

fn net(golden: &Golden, precision: Precision) -> Net {
    detr(&golden.config, (golden.size, Entry::Floats), precision, Results::Everything)
}

/// Compares all that a golden holds; activations have no fixed scale, so their tolerance grows with them.
fn assert_agrees(file: &str, found: &Values, golden: &Golden, tolerance: Tolerance) {
    assert!(golden.answers.len() >= 5, "{file}: only {:?}", golden.answers.keys());
    for (name, expected) in &golden.answers {
        let inside = !matches!(name.as_str(), "logits" | "pred_boxes");
        let tolerance = Tolerance { relative: if inside { tolerance.absolute } else { 0.0 }, ..tolerance };
        let error = compare(&found[name], expected, tolerance).unwrap_or_else(|e| panic!("{file}, {name}: {e}"));
        println!("{file} {name}: {error:.1e}");
    }
}

fn on_cpu(file: &str) {
    let golden = golden(file);
    let net = net(&golden, Precision::F32);
    let found = interpret(&net, &golden.inputs, &hashed::params(net.specs()));
    assert_agrees(file, &found, &golden, EXACT);
}

fn on_gpu(file: &str, precision: Precision) {
    if precision == Precision::F16 && !gpu().capabilities().f16 {
        println!("skipped, this device has no f16: {file}");
        return;
    }
    let golden = golden(file);
    let (graph, specs) = net(&golden, precision).into_parts();
    let graph = fuse(&graph, &|_| false);
    let folded = fold(&graph, &|_| false);
    let params = folded.evaluate(&hashed::params(&specs), &|_| true);
    let params = Params::upload(gpu(), &params).expect("room for a small model");
    let plan = Plan::compile(gpu(), &folded.graph, &params, &mut Scratch::default(), PlanOptions::default()).expect("a plan");
    let found = plan.call(&golden.inputs).expect("a run");
    assert_agrees(file, &found, &golden, if precision == Precision::F16 { HALF } else { EXACT });
}

macro_rules! goldens {
    ($($name:ident: $file:literal,)*) => { $(mod $name {
        #[test]
        fn interpreter() {
            super::on_cpu($file);
        }

        #[test]
        fn plan() {
            super::on_gpu($file, super::Precision::F32);
        }

        #[test]
        fn plan_in_f16() {
            super::on_gpu($file, super::Precision::F16);
        }
    })* };
}

goldens! {
    bottleneck_padded: "hf_bottleneck/io.safetensors",
    bottleneck_whole: "hf_bottleneck/io_no_mask.safetensors",
    basic_padded: "hf_basic/io.safetensors",
    basic_whole: "hf_basic/io_no_mask.safetensors",
    dilated_padded: "hf_timm_dc5/io.safetensors",
    dilated_whole: "hf_timm_dc5/io_no_mask.safetensors",
    original_padded: "original_basic/io.safetensors",
    original_whole: "original_basic/io_no_mask.safetensors",
    resnet18: "hashed/resnet18.safetensors",
    resnet34: "hashed/resnet34.safetensors",
    resnet50: "hashed/resnet50.safetensors",
    mobilenet_v2: "hashed/mobilenet_v2.safetensors",
    mobilenet_v2_stride16: "hashed/mobilenet_v2_stride16.safetensors",
}

#[test]
fn checkpoints_of_every_format_give_pytorchs_answers() {
    let files = [
        ("hf_bottleneck", "hf_bottleneck"),
        ("hf_basic", "hf_basic"),
        ("hf_timm_bottleneck", "hf_bottleneck"),
        ("hf_timm_dc5", "hf_timm_dc5"),
        ("original_basic/model.pth", "original_basic"),
        ("original_basic/model_legacy.pth", "original_basic"),
    ];
    for (file, answers) in files {
        let checkpoint = load(&hashed::folder().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        let config = checkpoint.config.clone().expect("a detector");
        let params = fit(checkpoint, detector::wants(&config).expect("a good configuration"), Extras::Refuse).expect("weights that fit");
        let mut detector = Detector::new(gpu(), config, params, Precision::F32, Results::Everything).expect("a detector");
        let golden = golden(&format!("{answers}/io.safetensors"));
        let found = detector.run(&golden.inputs["pixel_values"], &golden.inputs["pixel_mask"]).expect("a run");
        assert_agrees(file, &found, &golden, EXACT);
    }
}

fn asset(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").join(path)
}

fn classifier(precision: Precision) -> Classifier {
    let checkpoint = load(&asset("models/mobilenet_v2_imagenet.safetensors")).expect("the asset");
    let params = fit(checkpoint, Classifier::wants(), Extras::Refuse).expect("weights that fit");
    Classifier::new(gpu(), params, precision).expect("a classifier")
}

#[test]
fn the_imagenet_classifier_answers_as_torchvisions() {
    let golden = std::fs::read(hashed::folder().join("mobilenet_v2_imagenet.safetensors")).expect("the golden");
    let inputs = hashed::inputs(BatchSize { images: 1, height: 224, width: 224 });
    let found = classifier(Precision::F32).run(&inputs["pixel_values"]).expect("a run");
    let error = compare(&found, &hashed::tensors(&golden)["logits"], EXACT).unwrap_or_else(|e| panic!("{e}"));
    println!("logits: {error:.1e}");
}

#[test]
fn the_imagenet_classifier_sees() {
    for precision in [Precision::F32, Precision::F16] {
        if precision.check(gpu()).is_err() {
            println!("skipped: no f16");
            continue;
        }
        let photos = [("bear", "brown bear"), ("locomotive", "steam locomotive"), ("pizza", "pizza")];
        let sample = |file: &str| {
            let photo = image::read(asset(&format!("images/{file}.jpg"))).expect("the photo");
            Sample { original: Size::of(&photo), image: imagenet_view(&photo) }
        };
        let batch = Batch::new(&photos.map(|(file, _)| sample(file)), None).expect("a batch");
        let best = classifier(precision).best(&batch.pictures.normalized(), 5).expect("a run");
        for ((file, class), best) in photos.iter().zip(best) {
            let (id, probability) = best[0];
            assert_eq!(imagenet1000()[id], *class, "{file}: {best:?}");
            assert!(probability > 0.9 && best.len() == 5, "{file}: {best:?}");
        }
    }
}
