//! What is timed: the distinct nodes of real models, forward and training, and of the optimizer; where none of them uses an op of
//! the table, the op's largest test case.

use crate::cli::bench::subject::{Collected, Subject};
use crate::cli::train::ready_or_file;
use qdetr::Result;
use qdetr::data::Entry;
use qdetr::gpu::Capabilities;
use qdetr::graph::check::Case;
use qdetr::graph::{Graph, Op, fold, fuse, fuse_for};
use qdetr::kernels::TABLE;
use qdetr::kernels::epilogue::Epilogue;
use qdetr::kernels::integer::{Arithmetic, Bits as LowBits, IntegerLinear};
use qdetr::kernels::linear::Linear;
use qdetr::kernels::optim::{AdamW, BLOCK, Control, STATE, Update, accumulate, average, control, square_sums};
use qdetr::models::config::Attention;
use qdetr::models::{BatchSize, ModelConfig, Results, detector, detr};
use qdetr::nn::Precision;
use qdetr::quant::{Bits, Quantization};
use qdetr::tensor::{DType, Host, TensorType};
use qdetr::train::criterion::Criterion;
use qdetr::train::{StepOptions, train_graph};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The sizes that are asked for.
#[derive(Clone, Copy)]
pub(in crate::cli::bench) struct Sizes {
    pub(in crate::cli::bench) batch: usize,
    pub(in crate::cli::bench) precision: Precision,
    /// Small enough for a driver on the CPU.
    pub(in crate::cli::bench) quick: bool,
}

/// All subjects, in the order of the graphs, as these are fused for a device.
pub(in crate::cli::bench) fn subjects(sizes: Sizes, device: &Capabilities) -> Result<Vec<Subject>> {
    let mut all = Collected::default();
    let small = ready_or_file("bccd-detr")?.model;
    let large = ModelConfig::detr("resnet50")?;
    let low = ModelConfig {
        quantization: Some(Quantization::new(Bits::new(4, 4, 8)?)),
        ..if sizes.quick { small.clone() } else { large.clone() }
    };
    let smca = ModelConfig { attention: Attention::Smca, ..if sizes.quick { small.clone() } else { ModelConfig::smca("resnet50")? } };
    let extent = |height, width| BatchSize { images: sizes.batch, height, width };
    if sizes.quick {
        all.model(["small detr", "small detr, training"], &small, extent(64, 96), (sizes.precision, device), false);
        all.model(["small detr 4-4-8", "small detr 4-4-8, training"], &low, extent(64, 96), (sizes.precision, device), false);
        all.model(["small smca", "small smca, training"], &smca, extent(64, 96), (sizes.precision, device), true);
    } else {
        all.model(["detr-resnet50", "detr-resnet50, training"], &large, extent(800, 1066), (sizes.precision, device), false);
        all.model(["detr-resnet50 4-4-8", "detr-resnet50 4-4-8, training"], &low, extent(800, 1066), (sizes.precision, device), false);
        all.model(["detr-mobilenet", "detr-mobilenet, training"], &small, extent(480, 640), (sizes.precision, device), false);
        all.model(["smca-resnet50", "smca-resnet50, training"], &smca, extent(800, 1066), (sizes.precision, device), true);
    }
    let trained = if sizes.quick { &small } else { &large };
    let parameters: usize = detector::specs(trained)?.values().map(|spec| spec.shape.len()).sum();
    all.graph("optimizer", &optimizer(parameters), false);
    all.rest_of_the_table();
    Ok(all.subjects)
}

/// One product of `[rows, terms, columns]`: in floats, and of 4-bit codes with f32 sums.
pub(super) fn products([m, k, n]: [usize; 3], precision: Precision) -> Vec<Subject> {
    let subject = |op: Arc<dyn Op>, types| Subject { op, types, data: None, uses: BTreeMap::from([("product", 1)]) };
    let types = |dtype| [[m, k], [n, k]].map(|shape| TensorType::new(shape, dtype)).to_vec();
    let floats = Linear { epilogue: Epilogue::default(), to: None };
    let arithmetic =
        Arithmetic { bits: LowBits { x: 4, w: 4 }, epilogue: Epilogue::default(), residual_codes: false, to: DType::F32, requantize: None };
    let states = [1, n].map(|rows| TensorType::f32([rows, 4]));
    vec![
        subject(Arc::new(floats), types(precision.dtype())),
        subject(Arc::new(IntegerLinear::new(arithmetic)), [types(DType::I8), states.to_vec()].concat()),
    ]
}

impl Collected {
    /// The forward and the training step of a model; `new_ops` leaves out ops that were met before.
    fn model(
        &mut self,
        names: [&'static str; 2],
        config: &ModelConfig,
        size: BatchSize,
        (precision, device): (Precision, &Capabilities),
        new_ops: bool,
    ) {
        let forward = fuse_for(&detr(config, (size, Entry::Bytes), precision, Results::Answers).into_parts().0, device);
        self.graph(names[0], &fold(&forward, &|_| false).graph, new_ops);
        let criterion = if config.attention == Attention::Smca { Criterion::SMCA } else { Criterion::DETR };
        let options = StepOptions { precision, criterion, dropout: 0.1, query_groups: 0, entry: Entry::Bytes };
        let training = train_graph(config, size, options, None, &|_| true);
        let is_trained = |name: &str| training.trained.contains_key(name);
        let folded = fold(&fuse(&training.graph, &is_trained), &is_trained).graph;
        self.graph(names[1], &folded, new_ops);
    }

    /// The largest case in f32 of each op that no graph has.
    fn rest_of_the_table(&mut self) {
        let met: BTreeSet<&str> = self.subjects.iter().map(|s| s.op.name()).chain(["probe"]).collect();
        let mut largest: BTreeMap<&str, Case> = BTreeMap::new();
        let size = |case: &Case| case.inputs.iter().map(|h| h.shape().len()).sum::<usize>();
        let cases = TABLE.iter().flat_map(|family| (family.cases)());
        for case in cases.filter(|case| !met.contains(case.op.name()) && !case.needs_f16()) {
            if largest.get(case.op.name()).is_none_or(|known| size(known) < size(&case)) {
                largest.insert(case.op.name(), case);
            }
        }
        let subject = |case: Case| Subject {
            types: case.inputs.iter().map(Host::ty).collect(),
            op: case.op,
            data: Some(case.inputs),
            uses: BTreeMap::from([("test case", 1)]),
        };
        self.subjects.extend(largest.into_values().map(subject));
    }
}

/// Everything that may be done with so many parameters behind a step.
fn optimizer(parameters: usize) -> Graph {
    let mut g = Graph::new();
    let n = parameters.next_multiple_of(BLOCK);
    let [x, gradient, m, v, shadow, sum] =
        ["weights", "gradients", "first", "second", "average", "sum"].map(|name| g.input(name, TensorType::f32([n])));
    let group = g.input("group", TensorType::new([n / BLOCK], DType::U32));
    let keep = g.input("keep", TensorType::new([1], DType::U32));
    let rates = g.input("rates", TensorType::f32([2, 2]));
    let [scale, rate] = ["inverse_scale", "average_rate"].map(|name| g.input(name, TensorType::f32([1])));
    let state = g.input("counters", TensorType::f32([STATE]));
    let betas = [0.9, 0.999];
    accumulate(&mut g, sum, gradient, keep);
    let parts = square_sums(&mut g, gradient);
    let control = control(&mut g, Control { max_norm: Some(0.1), betas }, parts, scale, state);
    let x = AdamW { betas, epsilon: 1e-8 }.append(&mut g, Update { x, gradient, m, v, group, rates, control });
    average(&mut g, shadow, x, rate);
    g
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_of_given_sizes_is_timed_in_floats_and_on_codes() {
        let subjects = products([3, 16, 8], Precision::F32);
        let outputs: Vec<_> = subjects.iter().map(|s| (s.op.name(), s.outputs())).collect();
        assert_eq!(outputs, [("linear", vec![TensorType::f32([3, 8])]), ("integer_linear", vec![TensorType::f32([3, 8])])]);
        assert!(subjects.iter().all(|s| s.inputs().iter().map(Host::ty).eq(s.types.iter().copied())));
    }

    #[test]
    fn every_op_of_the_table_is_a_subject_once() {
        let subjects = subjects(Sizes { batch: 2, precision: Precision::F32, quick: true }, &Capabilities::WEBGPU).unwrap();
        let found: BTreeSet<&str> = subjects.iter().map(|s| s.op.name()).collect();
        let mut wanted: BTreeSet<&str> = TABLE.iter().flat_map(|family| (family.cases)()).map(|case| case.op.name()).collect();
        wanted.remove("probe");
        assert_eq!(found, wanted);
        let names: BTreeSet<String> = subjects.iter().map(Subject::name).collect();
        assert_eq!(names.len(), subjects.len());
        assert!(subjects.iter().all(|s| s.inputs().iter().map(Host::ty).eq(s.types.iter().copied())));
    }
}
