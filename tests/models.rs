//! Whole models against PyTorch: the CPU interpreter and the GPU plan, in f32 and f16.

mod common;
#[path = "common/hashed.rs"]
mod hashed;

use common::gpu;
use hashed::{Golden, golden};
use qdetr::graph::{Params, Plan, PlanOptions, Scratch, Values, fold, fuse, interpret};
use qdetr::models::{Results, detr};
use qdetr::nn::{Net, Precision};
use qdetr::tensor::compare::{Tolerance, compare};

const EXACT: Tolerance = Tolerance { absolute: 1e-4, relative: 0.0 };
const HALF: Tolerance = Tolerance { absolute: 2e-2, relative: 0.0 };

fn net(golden: &Golden, precision: Precision) -> Net {
    detr(&golden.config, golden.size, precision, Results::Everything)
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
    let graph = fuse(&graph);
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
