//! What a detector holds and multiplies, and the idealized sizes and operations that the papers print.
//!
//! **Multiply-adds** are those of a forward on one batch: linear layers, convolutions, and the two products of every attention.
//! Norms, softmax, positions and all else that is not a product of matrices count nothing, as in the papers.
//!
//! **The idealized size** (Q-DETR, section 5.4) is 32 bits for each real-valued number and b bits for each weight of b bits. Numbers
//! are all parameters and batch norm statistics, but not step sizes and zero points. Weights stored as f16 count 32 bits as well.
//!
//! **The idealized operations** (same place) are the multiply-adds of real values, and of those on codes a share: 1/32, 1/16 and 1/8
//! for 2, 3 and 4 bits. The paper names no share for more bits; its table (85.51 G in floats, 23.01 G in 8-8-8) fits 1/4 for 8, and
//! here 5 to 8 bits count 1/4. Of a layer whose weights and inputs have different bits the larger number counts; one whose inputs are
//! floats computes with real values. Nothing was ever timed for these shares: they are for comparison with tables.
//!
//! The paper's own sizes take every weight as quantized, and its operations all but the stem; a [`Preset`](crate::quant::Preset) that
//! leaves layers as floats or at 8 bits gives larger numbers here.

use super::{BatchSize, ModelConfig, Results, detr, limits};
use crate::Result;
use crate::data::Entry;
use crate::graph::Node;
use crate::nn::quantized::is_quantizers;
use crate::nn::{Net, ParamSpec, Precision};
use crate::quant::LayerBits;
use crate::quant::Quantization;
use crate::tensor::Shape;
use std::collections::BTreeMap;

/// A linear layer or convolution.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerCost {
    /// Its name: the weight is `NAME.weight`.
    pub name: String,
    /// The shape of its weight.
    pub shape: Shape,
    /// The bits of its operands.
    pub bits: LayerBits,
    /// Multiply-adds of a forward.
    pub multiply_adds: u64,
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Costs {
    /// In the order of the forward.
    pub layers: Vec<LayerCost>,
    /// Bits inside attention; `None` for floats.
    pub attention_bits: Option<u32>,
    /// Multiply-adds of queries with keys and of maps with values.
    pub attention_multiply_adds: u64,
    /// Numbers that are trained, without step sizes and zero points.
    pub parameters: u64,
    /// Statistics of batch norms.
    pub statistics: u64,
    /// Step sizes and zero points.
    pub steps: u64,
}

impl Costs {
    /// Of a model and a batch.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for a configuration that no model can have, [`crate::Error::OutOfMemory`] for a size that none has.
    pub fn of(config: &ModelConfig, size: BatchSize) -> Result<Self> {
        let quantized = super::detector::specs(config)?;
        let no_device = wgpu::Limits { max_storage_buffer_binding_size: u64::MAX, max_buffer_size: u64::MAX, ..wgpu::Limits::default() };
        limits::check(config, size, Precision::F32, &no_device)?;
        let floats = ModelConfig { quantization: None, ..config.clone() };
        let net = detr(&floats, (size, Entry::Bytes), Precision::F32, Results::Answers);
        let count = |counts: &dyn Fn(&str, &ParamSpec) -> bool| {
            quantized.iter().filter(|(name, spec)| counts(name, spec)).map(|(_, spec)| spec.shape.len() as u64).sum()
        };
        Ok(Self {
            layers: layers(&net, config),
            attention_bits: config.quantization.as_ref().and_then(Quantization::attention),
            attention_multiply_adds: net.nodes().iter().filter(|node| node.op.name() == "attention").map(|n| multiply_adds(&net, n)).sum(),
            parameters: count(&|name, spec| !spec.buffer && !is_quantizers(name)),
            statistics: count(&|_, spec| spec.buffer),
            steps: count(&|name, _| is_quantizers(name)),
        })
    }

    /// Multiply-adds of a forward.
    pub fn multiply_adds(&self) -> u64 {
        self.attention_multiply_adds + self.layers.iter().map(|layer| layer.multiply_adds).sum::<u64>()
    }

    /// The idealized operations.
    pub fn ideal_operations(&self) -> f64 {
        let of = |multiply_adds: u64, bits: Option<u32>| multiply_adds as f64 * share(bits);
        let layers = self.layers.iter().map(|layer| of(layer.multiply_adds, layer.product_bits()));
        of(self.attention_multiply_adds, self.attention_bits) + layers.sum::<f64>()
    }

    /// The idealized size in bits.
    pub fn ideal_bits(&self) -> u64 {
        let saved = |layer: &LayerCost| layer.shape.len() as u64 * u64::from(32 - layer.bits.weights.unwrap_or(32));
        32 * (self.parameters + self.statistics) - self.layers.iter().map(saved).sum::<u64>()
    }
}

impl LayerCost {
    /// The bits that the layer multiplies with; `None` for floats.
    fn product_bits(&self) -> Option<u32> {
        Some(self.bits.weights?.max(self.bits.inputs?))
    }
}

/// What an operation on so many bits counts.
fn share(bits: Option<u32>) -> f64 {
    match bits {
        None => 1.0,
        Some(2) => 1.0 / 32.0,
        Some(3) => 1.0 / 16.0,
        Some(4) => 1.0 / 8.0,
        Some(_) => 1.0 / 4.0,
    }
}

/// The nodes of a float network that multiply with a weight, by their scopes, which are the names of layers.
fn layers(net: &Net, config: &ModelConfig) -> Vec<LayerCost> {
    let mut layers: Vec<LayerCost> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for node in net.nodes().iter().filter(|node| ["linear", "conv", "depthwise"].contains(&node.op.name())) {
        // Sums with constant factors are linear nodes too.
        let Some(spec) = net.specs().get(&format!("{}.weight", node.scope)) else { continue };
        let place = *places.entry(&node.scope).or_insert(layers.len());
        if place == layers.len() {
            let bits = config.quantization.as_ref().map(|quantization| quantization.layer(&node.scope)).unwrap_or_default();
            layers.push(LayerCost { name: node.scope.clone(), shape: spec.shape, bits, multiply_adds: 0 });
        }
        layers[place].multiply_adds += multiply_adds(net, node);
    }
    layers
}

fn multiply_adds(net: &Net, node: &Node) -> u64 {
    node.op.operations(&net.types(&node.inputs), &net.types(&node.outputs)) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::observing;
    use crate::quant::{Preset, Quantization};

    const SIZE: BatchSize = BatchSize { images: 1, height: 800, width: 1066 };

    fn model(backbone: &str, bits: Option<(&str, Preset)>) -> ModelConfig {
        let quantization = bits.map(|(bits, preset)| Quantization { preset, ..Quantization::new(bits.parse().unwrap()) });
        ModelConfig { quantization, ..ModelConfig::detr(backbone).unwrap() }
    }

    fn costs(bits: Option<(&str, Preset)>) -> Costs {
        Costs::of(&model("resnet50", bits), SIZE).unwrap()
    }

    /// Giga-operations and mebibytes.
    fn ideal(costs: &Costs) -> (f64, f64) {
        (costs.ideal_operations() / 1e9, costs.ideal_bits() as f64 / 8.0 / (1 << 20) as f64)
    }

    #[test]
    fn a_float_model_is_as_large_as_published() {
        let costs = costs(None);
        assert_eq!((costs.parameters, costs.statistics, costs.steps), (41_524_768, 4 * 26_560, 0));
        let (operations, size) = ideal(&costs);
        assert_eq!(operations * 1e9, costs.multiply_adds() as f64);
        assert_eq!(costs.multiply_adds(), 81_167_232_000);
        // The paper's 159.32.
        assert!((size - 159.32).abs() < 1.0, "{size}");
    }

    #[test]
    fn few_bits_shrink_by_the_papers_rules() {
        let floats = costs(None);
        let all = costs(Some(("4-4-4", Preset::EveryWeight)));
        assert_eq!(all.ideal_operations(), floats.multiply_adds() as f64 / 8.0);
        let all = costs(Some(("4-4-8", Preset::EveryWeight)));
        let (_, size) = ideal(&all);
        // The paper's 19.92, and a mebibyte of biases, norms and queries.
        assert!((19.9..21.5).contains(&size), "{size}");
        // By hand, with the downsampling, the input projection and the heads as floats and the stem at 8 bits: 16.2 G and 33.6 MB. The
        // projections of attention that compute with floats add 2.3 G, those of cross-attention 6 · 4 · 256² weights of 28 bits more.
        let (operations, size) = ideal(&costs(Some(("4-4-8", Preset::Release))));
        assert!((operations - 18.47).abs() < 0.01 && (size - 37.27).abs() < 0.01, "{operations} {size}");
        for (bits, share) in [("2-2-8", 32.0), ("3-3-8", 16.0), ("4-4-8", 8.0), ("2-4-8", 8.0), ("5-5-8", 4.0), ("8-8-8", 4.0)] {
            let costs = costs(Some((bits, Preset::EveryWeight)));
            let layers = (costs.multiply_adds() - costs.attention_multiply_adds) as f64;
            assert_eq!(costs.ideal_operations(), layers / share + costs.attention_multiply_adds as f64 / 4.0, "{bits}");
        }
    }

    #[test]
    fn every_weight_with_a_quantizer_is_a_layer() {
        let size = BatchSize { images: 2, height: 64, width: 96 };
        let smca =
            ModelConfig { attention: crate::models::config::Attention::Smca, ..model("mobilenet_v2", Some(("4-4-8", Preset::Executable))) };
        for config in [model("resnet18", Some(("4-4-8", Preset::Executable))), smca] {
            let costs = Costs::of(&config, size).unwrap();
            let places = observing(&config, (size, Entry::Bytes));
            let places: BTreeMap<&str, u32> =
                places.places().iter().filter(|place| place.weight.is_some()).map(|p| (p.name.as_str(), p.quantizer.bits)).collect();
            let layers: BTreeMap<&str, u32> = costs.layers.iter().map(|layer| (layer.name.as_str(), layer.bits.weights.unwrap())).collect();
            assert_eq!(layers, places);
            assert!(costs.steps > 0 && costs.attention_multiply_adds > 0);
        }
        let huge = BatchSize { images: 4096, height: 1 << 16, width: 1 << 16 };
        assert!(Costs::of(&model("resnet18", None), huge).is_err());
    }
}
