//! A detector on a device: images in, boxes out.

use super::postprocess::{Detection, detections};
use super::{BatchSize, Given, ModelConfig, Results, Session, detr, for_training, limits};
use crate::Result;
use crate::data::preprocess::Batch;
use crate::data::{Entry, Pictures};
use crate::gpu::Gpu;
use crate::graph::{Plan, Values};
use crate::nn::{ParamSpec, Precision};
use crate::tensor::{Host, Shape};
use std::collections::BTreeMap;

/// See the module.
#[derive(Debug)]
pub struct Detector {
    config: ModelConfig,
    session: Session,
    precision: Precision,
}

/// Parameters do not depend on the size of images: the smallest will do to learn their names.
const SMALLEST: Given = (BatchSize { images: 1, height: 1, width: 1 }, Entry::Bytes);

/// What a model of this configuration wants as parameters, and how each starts without a checkpoint.
///
/// # Errors
/// As [`ModelConfig::validate`].
pub fn specs(config: &ModelConfig) -> Result<BTreeMap<String, ParamSpec>> {
    config.validate()?;
    Ok(detr(config, SMALLEST, Precision::F32, Results::Answers).into_parts().1)
}

/// As [`specs`], for a network in training with so many auxiliary groups of queries.
///
/// # Errors
/// As [`ModelConfig::validate`].
pub fn training_specs(config: &ModelConfig, query_groups: usize) -> Result<BTreeMap<String, ParamSpec>> {
    config.validate()?;
    Ok(for_training(config, SMALLEST, Precision::F32, 0.0, query_groups).0.into_parts().1)
}

/// The names and shapes of [`specs`], for [`weights::fit`](crate::weights::fit).
///
/// # Errors
/// As [`ModelConfig::validate`].
pub fn wants(config: &ModelConfig) -> Result<Vec<(String, Shape)>> {
    Ok(specs(config)?.into_iter().map(|(name, spec)| (name, spec.shape)).collect())
}

impl Detector {
    /// A detector from its configuration and its parameters, which hold all that it [`wants`]. Nothing is uploaded or compiled
    /// before a size is known: see [`Detector::plan`].
    ///
    /// # Errors
    /// [`crate::Error::Config`] for a configuration that no model can have, [`crate::Error::Usage`] for f16 on a device without it.
    ///
    /// # Panics
    /// When a parameter is missing or has another shape.
    pub fn new(gpu: &Gpu, config: ModelConfig, params: Values, precision: Precision, results: Results) -> Result<Self> {
        precision.check(gpu)?;
        for (name, spec) in specs(&config)? {
            let found = params.get(&name).map(Host::shape);
            assert_eq!(found, Some(spec.shape), "parameter `{name}`");
        }
        let model = config.clone();
        let session = Session::new(gpu, params, move |given| detr(&model, given, precision, results).into_parts().0)?;
        Ok(Self { config, session, precision })
    }

    /// The same, of which every plan takes at most so many bytes: see [`Session::with_memory`].
    pub fn with_memory(self, bytes: Option<usize>) -> Self {
        Self { session: self.session.with_memory(bytes), ..self }
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The plan of [`Detector::detect`] for a size, compiled now if there is none. [`Plan::memory`] says what it holds,
    /// [`Plan::profile`] where the time goes.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] when the size does not fit the device, with one that would; failures of the device.
    pub fn plan(&mut self, size: BatchSize) -> Result<&Plan> {
        limits::check(&self.config, size, self.precision, self.session.gpu().limits())?;
        self.session.plan((size, Entry::Bytes))
    }

    /// The network's results, by the names of [`Results`], for `pixels` f32 `[B, H, W, 3]`, normalized and zero on padding, and
    /// `mask` u32 `[B, H, W]`, 1 on the image.
    ///
    /// # Errors
    /// As [`Detector::plan`].
    ///
    /// # Panics
    /// When shapes or types are others.
    pub fn run(&mut self, pixels: &Host, mask: &Host) -> Result<Values> {
        self.answer(&Pictures::floats(pixels.clone(), mask.clone()))
    }

    /// The network's results, by the names of [`Results`].
    ///
    /// # Errors
    /// As [`Detector::plan`].
    pub fn answer(&mut self, pictures: &Pictures) -> Result<Values> {
        limits::check(&self.config, BatchSize::of(pictures), self.precision, self.session.gpu().limits())?;
        self.session.answer(pictures)
    }

    /// What is on the pictures of a batch, one list a picture, best first: all with a score of at least `threshold`.
    ///
    /// # Errors
    /// As [`Detector::plan`]; [`crate::Error::NotFinite`] when the network's answers are no numbers.
    pub fn detect(&mut self, batch: &Batch, threshold: f32) -> Result<Vec<Vec<Detection>>> {
        let results = self.answer(&batch.pictures)?;
        detections(self.config.attention, &results["logits"], &results["pred_boxes"], &batch.original, threshold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Init;

    /// Numbers of trained parameters and of all numbers, statistics included.
    fn counts(backbone: &str) -> (usize, usize) {
        let specs = specs(&ModelConfig::detr(backbone).unwrap()).unwrap();
        let count = |buffers: bool| specs.values().filter(|s| buffers || !s.buffer).map(|s| s.shape.len()).sum();
        (count(false), count(true))
    }

    #[test]
    fn the_published_models_have_their_numbers_of_parameters() {
        // The frozen norms of ResNet-50 are 26,560 channels with four numbers each. ResNet-101 has 17 more blocks of
        // 1024·256 + 9·256² + 256·1024 weights.
        assert_eq!(counts("resnet50"), (41_524_768, 41_524_768 + 4 * 26_560));
        assert_eq!(counts("resnet101").0, 41_524_768 + 17 * 1_114_112);
        assert_eq!(counts("resnet50-dc5"), counts("resnet50"));
        let classifier: usize = super::super::Classifier::wants().iter().map(|(_, shape)| shape.len()).sum();
        // torchvision's 3,504,872 count weight and bias of the norms, 17,056 channels; the statistics are two more.
        assert_eq!(classifier, 3_504_872 + 2 * 17_056);
    }

    #[test]
    fn parameters_start_as_in_the_original() {
        let specs = specs(&ModelConfig::detr("resnet50").unwrap()).unwrap();
        let starts = [
            ("transformer.encoder.layers.0.self_attn.q_proj.weight", Init::Uniform((6.0f32 / 1024.0).sqrt())),
            ("transformer.encoder.layers.0.self_attn.q_proj.bias", Init::Constant(0.0)),
            ("transformer.decoder.layers.5.multihead_attn.out_proj.weight", Init::Uniform((6.0f32 / 512.0).sqrt())),
            ("transformer.decoder.layers.5.linear2.weight", Init::Uniform((6.0f32 / 2304.0).sqrt())),
            ("transformer.decoder.layers.5.linear2.bias", Init::Uniform((1.0f32 / 2048.0).sqrt())),
            ("transformer.decoder.norm.weight", Init::Constant(1.0)),
            ("query_embed.weight", Init::Normal(1.0)),
            ("class_embed.weight", Init::Uniform(1.0 / 16.0)),
            ("input_proj.bias", Init::Uniform((1.0f32 / 2048.0).sqrt())),
            ("backbone.0.body.layer1.0.conv2.weight", Init::Normal((2.0f32 / (9.0 * 64.0)).sqrt())),
            ("backbone.0.body.layer1.0.bn2.running_var", Init::Constant(1.0)),
        ];
        for (name, init) in starts {
            assert_eq!(specs[name].init, init, "{name}");
        }
    }

    #[test]
    fn smca_starts_as_in_the_original() {
        let specs = specs(&ModelConfig::smca("resnet50").unwrap()).unwrap();
        let starts = [
            ("transformer.decoder.layers.0.point1.layers.0.weight", Init::Uniform((6.0f32 / 512.0).sqrt())),
            ("transformer.decoder.layers.0.point1.layers.2.weight", Init::Uniform((6.0f32 / 258.0).sqrt())),
            ("transformer.decoder.layers.0.point1.layers.2.bias", Init::Uniform(1.0 / 16.0)),
            ("transformer.decoder.layers.5.point2.weight", Init::Uniform((6.0f32 / 272.0).sqrt())),
            ("transformer.decoder.layers.5.point3.weight", Init::Constant(0.0)),
            ("transformer.decoder.layers.5.point3.bias", Init::Constant(1.0)),
            ("transformer.decoder.layers.5.norm4.weight", Init::Constant(1.0)),
            ("class_embed.bias", Init::Constant(-(99f32.ln()))),
            ("bbox_embed.layers.0.weight", Init::Uniform(1.0 / 16.0)),
        ];
        for (name, init) in starts {
            match (specs[name].init, init) {
                (Init::Constant(found), Init::Constant(wanted)) => assert!((found - wanted).abs() < 1e-6, "{name}: {found}"),
                (found, wanted) => assert_eq!(found, wanted, "{name}"),
            }
        }
        assert_eq!(specs["query_embed.weight"].shape.dims(), [300, 256]);
        assert!(!specs.contains_key("transformer.decoder.layers.1.point1.layers.0.weight"));
    }
}
