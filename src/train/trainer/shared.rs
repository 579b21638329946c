//! The launches that the layers of a step share, on arenas: see [`Quantizers`], [`Parts`] and [`Halves`].

use super::GRADIENT;
use crate::Result;
use crate::gpu::Gpu;
use crate::graph::{Arena, Graph, Halves, Layout, Links, Needs, Parts, PartsArena, QuantizerArenas, Quantizers};

/// The graph of a step with shared launches.
pub(super) struct Shared {
    quantizers: Quantizers,
    parts: Parts,
    /// What is left to run.
    pub(super) graph: Graph,
}

impl Shared {
    /// The graph of a step whose parameters lie in an arena.
    pub(super) fn of(graph: &Graph, arena: &Layout) -> Self {
        let quantizers = Quantizers::share(graph, arena, GRADIENT);
        let parts = Parts::share(&quantizers.graph, arena, GRADIENT);
        let graph = Halves::share(&parts.graph, arena);
        Self { quantizers, parts, graph }
    }

    /// What the graph needs of which some more values live in buffers from outside, by their names.
    pub(super) fn needs(&self, is_linked: &dyn Fn(&str) -> bool) -> Needs {
        let is_own = |name: &str| Quantizers::is_linked(name) || Parts::is_linked(name) || Halves::is_linked(name);
        let needs = Needs::of(&self.graph, &|name| is_own(name) || is_linked(name));
        Needs { arenas: self.quantizers.buffers().into_iter().chain([self.parts.bytes()]).collect(), ..needs }
    }
}

/// The arenas behind it.
pub(super) struct SharedArenas {
    quantizers: QuantizerArenas,
    parts: PartsArena,
}

impl SharedArenas {
    /// Room for a graph beside those of others, which never run at the same time.
    pub(super) fn new<'a>(gpu: &Gpu, of: &Shared, others: impl Iterator<Item = &'a Self> + Clone) -> Result<Self> {
        Ok(Self {
            quantizers: QuantizerArenas::new(gpu, &of.quantizers, others.clone().map(|other| &other.quantizers))?,
            parts: PartsArena::new(gpu, &of.parts, others.map(|other| &other.parts))?,
        })
    }

    /// What the graph is linked to, with the arenas of the parameters and of their gradients.
    pub(super) fn links(&self, parameters: &Arena, gradients: &Arena) -> Links {
        let mut links = self.quantizers.links(parameters, gradients);
        links.extend(self.parts.links(gradients));
        links
    }

    /// Bytes on the device of some that may share.
    pub(super) fn bytes<'a>(all: impl Iterator<Item = &'a Self> + Clone) -> usize {
        QuantizerArenas::bytes(all.clone().map(|a| &a.quantizers)) + PartsArena::bytes(all.map(|a| &a.parts))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LOSS_SCALE, Program, Times, Trainer};
    use super::*;
    use crate::data::TrainBatch;
    use crate::data::preprocess::{Batch, Size};
    use crate::gpu::Options;
    use crate::graph::{Plan, PlanOptions, Scratch, Values, fold, fuse};
    use crate::models::config::{Backbone, Block, ResNet};
    use crate::models::{BatchSize, ModelConfig, detector};
    use crate::nn::initialize;
    use crate::quant::{Bits, Preset, Quantization};
    use crate::tensor::Host;
    use crate::tensor::compare::{Tolerance, compare};
    use crate::train::TrainConfig;
    use crate::train::graph::train_graph;
    use crate::train::groups::Groups;
    use crate::train::matcher::Targets;
    use serde_json::{Value, json};

    fn quantized(model: ModelConfig, rest: &[(&str, Value)]) -> TrainConfig {
        let quantization = Some(Quantization::new("4-4-8".parse::<Bits>().unwrap()));
        let mut config = json!({ "model": ModelConfig { quantization, ..model } });
        rest.iter().for_each(|(key, value)| config[*key] = value.clone());
        TrainConfig::parse(&config.to_string()).unwrap()
    }

    /// The step of DETR-R50 at 4-4-8 bits on eight pictures of 800 × 1066, and the arena of its parameters.
    fn published(preset: Preset) -> (Shared, Layout) {
        let mut config = quantized(ModelConfig::detr("resnet50").unwrap(), &[("precision", json!("f16"))]);
        config.model.quantization.iter_mut().for_each(|quantization| quantization.preset = preset);
        let (options, size) = (config.trainer(), BatchSize { images: 8, height: 800, width: 1066 });
        let build = |trains: &dyn Fn(&str) -> bool| train_graph(&config.model, size, options.step, None, trains);
        let all = build(&|_| true);
        let groups = Groups::new(&options.groups, &all.specs).unwrap().with_gradient(|name| all.trained.contains_key(name));
        let layout = (**groups.layout()).clone();
        let fused = fuse(&build(&|name| groups.contains(name)).graph, &|name| layout.contains(name));
        let folded = fold(&fused, &|name| layout.contains(name));
        (Shared::of(&folded.graph, &layout), layout)
    }

    #[test]
    fn a_step_of_the_published_model_is_few_launches_and_little_memory() {
        for (preset, bytes) in [(Preset::Executable, 5_200_000_000), (Preset::Compact, 5_600_000_000)] {
            is_small(preset, bytes);
        }
    }

    fn is_small(preset: Preset, bytes: usize) {
        let (shared, layout) = published(preset);
        let count = |name: &str| shared.graph.nodes().iter().filter(|node| node.op.name() == name).count();
        let kinds = ["arena_backward", "arena_scales", "state_gradients", "integer_scale"].map(count);
        assert_eq!(kinds, [1, 1, 1, 0]);
        assert!(count("arena_sums") < 20 && count("column_sums") < 150);
        assert!(shared.graph.nodes().len() < 1500, "{} launches", shared.graph.nodes().len());
        let is_linked = |name: &str| layout.contains(name) || name.starts_with(GRADIENT);
        let scratch: usize = shared.needs(&is_linked).scratch.iter().sum();
        assert!(scratch < bytes, "{preset:?}: {scratch} bytes");
    }

    /// A small trainer and a batch for it.
    fn small() -> (Trainer, TrainBatch) {
        let backbone = ResNet { block: Block::Bottleneck, depths: [1; 4], stem: 8, widths: [8, 12, 24, 32], dilated_c5: false };
        let layers = ModelConfig { encoder_layers: 1, decoder_layers: 2, queries: 6, classes: 2, ..ModelConfig::detr("resnet50").unwrap() };
        let model = ModelConfig { backbone: Backbone::Resnet(backbone), d_model: 36, heads: 4, ffn: 50, ..layers };
        let config = quantized(model, &[("sizes", json!([[64, 64]])), ("batch", json!(2))]);
        let start = initialize(&detector::training_specs(&config.model, config.query_groups).unwrap(), 3);
        let trainer = config.start(&Gpu::open(&Options::default()).unwrap(), start, None).unwrap();
        let batch = Batch::noise(2, Size { width: 64, height: 64 }).unwrap();
        let targets = vec![Targets { labels: vec![0, 1], boxes: vec![[0.3, 0.4, 0.2, 0.3], [0.6, 0.5, 0.4, 0.2]] }; 2];
        (trainer, TrainBatch { epoch: 0, step: 0, batch, targets, skipped: Vec::new() })
    }

    /// The gradients of a batch by a launch for each node.
    fn one_by_one(trainer: &mut Trainer, batch: &TrainBatch) -> Values {
        let (graph, shape) = trainer.graph(super::super::size_of(batch)).unwrap();
        let links = trainer.weights.links("");
        let mut scratch = Scratch::default();
        let plan = Plan::compile_linked(&trainer.gpu, &graph, &trainer.constants, &links, &mut scratch, PlanOptions::default()).unwrap();
        let program = Program { plan, shape, arenas: None };
        program.write_batch(batch, 5);
        program.plan.run_segment(0).unwrap();
        program.write_targets(&trainer.judge(), &program.plan.read_segment(0).unwrap(), &batch.targets).unwrap();
        program.plan.write(LOSS_SCALE, &Host::f32([1], vec![1.0]));
        program.plan.run_segment(1).unwrap();
        program.plan.read_segment(1).unwrap()
    }

    #[test]
    fn shared_launches_give_the_gradients_of_single_ones() {
        let (mut trainer, batch) = small();
        let expected = one_by_one(&mut trainer, &batch);
        trainer.prepare(super::super::size_of(&batch)).unwrap();
        trainer.differentiate(&batch, 5, 1.0, true, &mut Times::default()).unwrap();
        let found = trainer.gradients.read(&trainer.gpu).unwrap();
        assert!(found.len() > 100);
        for (name, gradient) in &found {
            let expected = &expected[&format!("{GRADIENT}{name}")];
            let largest = expected.to_f32().iter().fold(0.0, |most: f32, v| most.max(v.abs()));
            let tolerance = Tolerance { absolute: 1e-4 * largest, relative: 1e-4 };
            compare(gradient, expected, tolerance).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}
