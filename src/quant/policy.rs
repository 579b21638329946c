//! Which layers of a detector have how many bits.

use super::Bits;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// A choice of layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Ours: every linear layer and convolution runs on codes; the first one (the stem) and the last ones (heads, SMCA-DETR's points)
    /// have 8 bits. Skip connections are floats, as the paper has them.
    Executable,
    /// As `executable`, and what the stem and each block of the backbone give to the next, its skip connections, is kept as codes of 8
    /// bits: its activations then take half of the memory that they take in 16-bit floats.
    #[default]
    Compact,
    /// The paper's sizes taken by the letter (Q-DETR, table 3: every weight has the few bits): as ours, without the exception of 8
    /// bits.
    EveryWeight,
    /// The backbone alone, its first layer with 8 bits: the first of the paper's two stages of training.
    Backbone,
    /// What the released code of Q-DETR does: the stem has 8 bits; downsampling convolutions, the input projection, heads, SMCA-DETR's
    /// points and the projections of cross-attention stay floats; those of self-attention have codes as weights only. Its step
    /// size for every input channel is left out: no integer product exists for that.
    Release,
}

/// The low bits of a detector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantization {
    /// Bits of weights, activations and attention.
    pub bits: Bits,
    /// Which layers have them.
    #[serde(default)]
    pub preset: Preset,
    /// Whether activations have zero points: LSQ+, the papers' baseline, and not LSQ.
    #[serde(default = "yes")]
    pub zero_points: bool,
    /// Quantizers of activations that saw nothing negative when their step sizes were made; decided then, for good.
    #[serde(default)]
    pub unsigned: BTreeSet<String>,
}

fn yes() -> bool {
    true
}

/// The bits of a layer's operands; `None` for floats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerBits {
    /// Of its weights.
    pub weights: Option<u32>,
    /// Of its input, when the weights have codes.
    pub inputs: Option<u32>,
}

const FIRST_AND_LAST: u32 = 8;
const SKIPS: u32 = 8;

impl Quantization {
    /// Low bits by our choice of layers, before any step size is made.
    pub fn new(bits: Bits) -> Self {
        Self { bits, preset: Preset::default(), zero_points: true, unsigned: BTreeSet::new() }
    }

    /// The bits of a layer, by its full name.
    pub fn layer(&self, name: &str) -> LayerBits {
        let both = |weights, inputs| LayerBits { weights: Some(weights), inputs: Some(inputs) };
        let (few, many) = (both(self.bits.weights, self.bits.activations), both(FIRST_AND_LAST, FIRST_AND_LAST));
        use Preset::{Compact, Executable};
        // The first two differ in what lies between layers.
        match (self.preset, Part::of(name)) {
            (Preset::EveryWeight, _) | (Compact | Executable, Part::Inner | Part::Downsample | Part::InputProjection) => few,
            (Preset::Backbone, _) if !name.starts_with("backbone.") => LayerBits::default(),
            (Preset::Backbone, Part::Stem) => many,
            (Preset::Backbone, _) => few,
            (Compact | Executable, Part::Stem | Part::Head) | (Preset::Release, Part::Stem) => many,
            (Compact | Executable, Part::SelfAttention | Part::CrossAttention) | (Preset::Release, Part::Inner) => few,
            (Preset::Release, Part::SelfAttention) => LayerBits { inputs: None, ..few },
            (Preset::Release, Part::Downsample | Part::InputProjection | Part::Head | Part::CrossAttention) => LayerBits::default(),
        }
    }

    /// Takes the signs of a first stage's step sizes over, which are those of the backbone's layers.
    pub fn keep_backbone(&mut self, stage: &Self) {
        self.unsigned.retain(|name| !name.starts_with("backbone.") || name.ends_with(".skip"));
        self.unsigned.extend(stage.unsigned.iter().cloned());
    }

    /// The bits of queries, keys, values and attention maps; `None` for floats.
    pub fn attention(&self) -> Option<u32> {
        (self.preset != Preset::Backbone).then_some(self.bits.attention)
    }

    /// The bits of what the stem or a block of the backbone gives to the next; `None` for floats.
    pub fn skips(&self) -> Option<u32> {
        (self.preset == Preset::Compact).then_some(SKIPS)
    }

    /// Whether step sizes of the one fit the other: all but the signs, which belong to step sizes.
    pub fn is_like(&self, other: &Self) -> bool {
        (self.bits, self.preset, self.zero_points) == (other.bits, other.preset, other.zero_points)
    }

    /// Whether the levels of an activation's quantizer are half of them negative.
    pub fn is_signed(&self, name: &str) -> bool {
        !self.unsigned.contains(name)
    }
}

/// Bits, choice of layers, and what is out of the ordinary: `4-4-8 (executable, no zero points)`.
impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let preset = match self.preset {
            Preset::Executable => "executable",
            Preset::Compact => "compact",
            Preset::EveryWeight => "every weight",
            Preset::Release => "release",
            Preset::Backbone => "backbone",
        };
        write!(f, "{} ({preset}{})", self.bits, if self.zero_points { "" } else { ", no zero points" })
    }
}

/// What a layer is to a detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Stem,
    Downsample,
    InputProjection,
    SelfAttention,
    CrossAttention,
    /// Class and box heads, and the points of SMCA-DETR.
    Head,
    Inner,
}

impl Part {
    fn of(name: &str) -> Self {
        let has = |part: &str| name.split('.').any(|p| p == part);
        match name {
            "backbone.0.body.conv1" | "backbone.0.body.features.0.0" => Self::Stem,
            "input_proj" => Self::InputProjection,
            _ if has("downsample") => Self::Downsample,
            _ if has("self_attn") => Self::SelfAttention,
            _ if has("multihead_attn") => Self::CrossAttention,
            _ if ["class_embed", "bbox_embed", "point1", "point2", "point3"].into_iter().any(has) => Self::Head,
            _ => Self::Inner,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(preset: Preset) -> [(Option<u32>, Option<u32>); 7] {
        let quantization = Quantization { preset, ..Quantization::new("3-4-8".parse().unwrap()) };
        [
            "backbone.0.body.conv1",
            "backbone.0.body.layer2.0.downsample.0",
            "input_proj",
            "transformer.encoder.layers.0.self_attn.q_proj",
            "transformer.decoder.layers.5.multihead_attn.out_proj",
            "bbox_embed.layers.2",
            "transformer.decoder.layers.0.linear1",
        ]
        .map(|name| quantization.layer(name))
        .map(|bits| (bits.weights, bits.inputs))
    }

    #[test]
    fn every_choice_has_the_bits_it_says() {
        let (few, many, none) = ((Some(3), Some(4)), (Some(8), Some(8)), (None, None));
        assert_eq!(layers(Preset::Executable), [many, few, few, few, few, many, few]);
        assert_eq!(layers(Preset::Compact), layers(Preset::Executable));
        assert_eq!(layers(Preset::EveryWeight), [few; 7]);
        assert_eq!(layers(Preset::Backbone), [many, few, none, none, none, none, none]);
        assert_eq!(layers(Preset::Release), [many, none, none, (Some(3), None), none, none, few]);
    }

    #[test]
    fn skip_connections_are_codes_in_one_choice_alone() {
        let skips = |preset| Quantization { preset, ..Quantization::new("3-4-8".parse().unwrap()) }.skips();
        let found = [Preset::Compact, Preset::Executable, Preset::EveryWeight, Preset::Backbone, Preset::Release].map(skips);
        assert_eq!(found, [Some(8), None, None, None, None]);
    }

    #[test]
    fn signs_of_skip_connections_are_not_those_of_a_first_stage() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let mut ours =
            Quantization { unsigned: names(&["backbone.a.act", "backbone.a.skip", "x"]), ..Quantization::new("3-4-8".parse().unwrap()) };
        ours.keep_backbone(&Quantization { unsigned: names(&["backbone.b.act"]), ..ours.clone() });
        assert_eq!(ours.unsigned, names(&["backbone.a.skip", "backbone.b.act", "x"]));
    }

    #[test]
    fn a_configuration_says_bits_and_the_rest_has_defaults() {
        let found: Quantization = serde_json::from_str(r#"{"bits": "4-4-8"}"#).unwrap();
        assert_eq!(found, Quantization::new("4-4-8".parse().unwrap()));
        assert!(serde_json::from_str::<Quantization>(r#"{"bits": "4-9-8"}"#).unwrap_err().to_string().contains('9'));
        assert!(found.is_signed("x") && !Quantization { unsigned: ["x".to_owned()].into(), ..found }.is_signed("x"));
    }
}
