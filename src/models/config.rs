//! What a model is made of: the part of a checkpoint that is not numbers.

use crate::data::preprocess::Resize;
use crate::quant::Quantization;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The residual block of a ResNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    /// Two 3×3 convolutions (ResNet-18, -34).
    Basic,
    /// 1×1, 3×3, 1×1 with a fourfold expansion (ResNet-50, -101), stride on the 3×3 (v1.5).
    Bottleneck,
}

/// A ResNet with frozen batch norms, torchvision's v1.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNet {
    /// Block type.
    pub block: Block,
    /// Blocks in each of the four stages.
    pub depths: [usize; 4],
    /// Channels after the 7×7 stem; 64 in every published ResNet.
    pub stem: usize,
    /// Output channels of each stage: `[256, 512, 1024, 2048]` for ResNet-50.
    pub widths: [usize; 4],
    /// DC5: the last stage keeps its resolution and dilates its 3×3 convolutions by two instead.
    #[serde(default)]
    pub dilated_c5: bool,
}

/// torchvision's MobileNetV2, width 1.0, ReLU6, frozen batch norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MobileNetV2 {
    /// Stride of the feature map that the transformer sees: 32 (after `features.17`, 320 channels) or
    /// 16 (after `features.13`, 96 channels).
    pub stride: usize,
}

/// The convolutional part that turns an image into a feature map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backbone {
    /// See [`ResNet`].
    Resnet(ResNet),
    /// See [`MobileNetV2`].
    MobilenetV2(MobileNetV2),
}

impl Backbone {
    /// The published backbones by name: `resnet18`, `resnet34`, `resnet50`, `resnet101`, with `-dc5` behind it for the
    /// dilated last stage, and `mobilenet_v2`.
    ///
    /// # Errors
    /// On another name, with the list of those that exist.
    pub fn named(name: &str) -> Result<Self> {
        let (base, dilated_c5) = name.strip_suffix("-dc5").map_or((name, false), |base| (base, true));
        let resnet = |block, depths, widths| Ok(Self::Resnet(ResNet { block, depths, stem: 64, widths, dilated_c5 }));
        match base {
            "resnet18" => resnet(Block::Basic, [2, 2, 2, 2], [64, 128, 256, 512]),
            "resnet34" => resnet(Block::Basic, [3, 4, 6, 3], [64, 128, 256, 512]),
            "resnet50" => resnet(Block::Bottleneck, [3, 4, 6, 3], [256, 512, 1024, 2048]),
            "resnet101" => resnet(Block::Bottleneck, [3, 4, 23, 3], [256, 512, 1024, 2048]),
            "mobilenet_v2" if !dilated_c5 => Ok(Self::MobilenetV2(MobileNetV2 { stride: 32 })),
            _ => Err(Error::Config(format!(
                "unknown backbone `{name}`; known are resnet18, resnet34, resnet50, resnet101 (each also as `…-dc5`) and mobilenet_v2"
            ))),
        }
    }

    /// Pixels per cell of the feature map.
    pub fn stride(&self) -> usize {
        match self {
            Self::Resnet(r) => 32 >> usize::from(r.dilated_c5),
            Self::MobilenetV2(m) => m.stride,
        }
    }

    /// Channels of the feature map.
    pub fn channels(&self) -> usize {
        match self {
            Self::Resnet(r) => r.widths[3],
            Self::MobilenetV2(MobileNetV2 { stride: 16 }) => 96,
            Self::MobilenetV2(_) => 320,
        }
    }
}

/// How the decoder's queries look at the image, and with it how classes are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attention {
    /// DETR: everywhere alike; softmax over the classes and no-object.
    #[default]
    Plain,
    /// SMCA-DETR, single scale with a scale for each head and axis: around a point that each query predicts; a sigmoid for each class.
    Smca,
}

impl Attention {
    fn is_plain(&self) -> bool {
        *self == Self::Plain
    }
}

/// Where Q-DETR's distribution alignment normalizes the decoder's queries, head by head, before they are quantized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Alignment {
    /// Nowhere.
    #[default]
    None,
    /// In the attention to the image: the paper's (Xu et al., CVPR 2023, Eq. 9 and figure 1).
    CoAttention,
    /// In the attention among queries: what the released code does.
    SelfAttention,
}

impl Alignment {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// A detection transformer, whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The convolutional part.
    pub backbone: Backbone,
    /// Width of the transformer, 256 in DETR.
    pub d_model: usize,
    /// Attention heads, 8 in DETR; divides `d_model`.
    pub heads: usize,
    /// Encoder layers.
    pub encoder_layers: usize,
    /// Decoder layers.
    pub decoder_layers: usize,
    /// Hidden width of the feed-forward blocks, 2048 in DETR.
    pub ffn: usize,
    /// Object queries, 100 in DETR, 300 in SMCA-DETR.
    pub queries: usize,
    /// Classes without the no-object class; the logits have one more. 91 for COCO, whose ids have holes.
    pub classes: usize,
    /// Name of each class id; shorter than `classes` or empty when unknown. COCO's holes are `N/A`.
    #[serde(default)]
    pub class_names: Vec<String>,
    /// How queries look at the image: DETR's way unless a file says otherwise.
    #[serde(default, skip_serializing_if = "Attention::is_plain")]
    pub attention: Attention,
    /// Where queries are aligned.
    #[serde(default, skip_serializing_if = "Alignment::is_none")]
    pub alignment: Alignment,
    /// How large pictures are made for it, where it says so: as in its training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
    /// Low bits; a network of floats without them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
}

/// No sane model is wider, deeper or has more queries than this; larger numbers in a file are damage or malice. No weight
/// within these limits has 2³² elements.
const LIMIT: usize = 1 << 16;
const WIDTH_LIMIT: usize = 1 << 13;
/// Nor does it want larger pictures, in pixels a side.
const SIDE_LIMIT: usize = 1 << 14;

impl ModelConfig {
    /// DETR as published (method: 256 wide, 8 heads, 6 + 6 layers, 100 queries, COCO's 91 ids) on a named backbone.
    ///
    /// # Errors
    /// On an unknown backbone name.
    pub fn detr(backbone: &str) -> Result<Self> {
        Ok(Self {
            backbone: Backbone::named(backbone)?,
            d_model: 256,
            heads: 8,
            encoder_layers: 6,
            decoder_layers: 6,
            ffn: 2048,
            queries: 100,
            classes: 91,
            class_names: Vec::new(),
            attention: Attention::Plain,
            alignment: Alignment::None,
            resize: None,
            quantization: None,
        })
    }

    /// SMCA-DETR as published (single scale): DETR with 300 queries and the Gaussian prior.
    ///
    /// # Errors
    /// On an unknown backbone name.
    pub fn smca(backbone: &str) -> Result<Self> {
        Ok(Self { queries: 300, attention: Attention::Smca, ..Self::detr(backbone)? })
    }

    /// The name of a class id, or its number.
    pub fn class_name(&self, id: usize) -> String {
        self.class_names.get(id).cloned().unwrap_or_else(|| format!("class {id}"))
    }

    /// Checks what the type system does not.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field, its value and what it may be.
    pub fn validate(&self) -> Result<()> {
        let range = |name: &str, value: usize, low: usize, high: usize| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(Error::Config(format!("`{name}` is {value}; it must be between {low} and {high}")))
        };
        range("d_model", self.d_model, 4, WIDTH_LIMIT)?;
        range("heads", self.heads, 1, self.d_model)?;
        range("encoder_layers", self.encoder_layers, 0, 256)?;
        range("decoder_layers", self.decoder_layers, 1, 256)?;
        range("ffn", self.ffn, 1, LIMIT)?;
        range("queries", self.queries, 1, LIMIT)?;
        range("classes", self.classes, 1, LIMIT)?;
        range("class_names (their number)", self.class_names.len(), 0, self.classes)?;
        if let Some(Resize { shorter, longer }) = self.resize {
            range("resize.shorter", shorter, 1, SIDE_LIMIT)?;
            range("resize.longer", longer, shorter, SIDE_LIMIT)?;
        }
        if self.alignment != Alignment::None && self.d_model == self.heads {
            return Err(Error::Config("`alignment` needs heads of 2 channels at least; `d_model` is equal to `heads`".into()));
        }
        if !self.d_model.is_multiple_of(self.heads) || !self.d_model.is_multiple_of(4) {
            return Err(Error::Config(format!(
                "`d_model` is {}; it must be a multiple of 4 and of `heads` ({})",
                self.d_model, self.heads
            )));
        }
        match self.backbone {
            Backbone::Resnet(r) => {
                range("backbone.stem", r.stem, 1, WIDTH_LIMIT)?;
                for (depth, width) in r.depths.into_iter().zip(r.widths) {
                    range("backbone.depths", depth, 1, 256)?;
                    range("backbone.widths", width, 1, WIDTH_LIMIT)?;
                    if r.block == Block::Bottleneck && !width.is_multiple_of(4) {
                        return Err(Error::Config(format!("`backbone.widths` holds {width}; a bottleneck needs a multiple of 4")));
                    }
                }
                Ok(())
            }
            Backbone::MobilenetV2(m) if matches!(m.stride, 16 | 32) => Ok(()),
            Backbone::MobilenetV2(m) => Err(Error::Config(format!("`backbone.stride` is {}; it must be 16 or 32", m.stride))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_that_no_model_can_want_are_refused() {
        let check = |shorter, longer| {
            let config = ModelConfig { resize: Some(Resize { shorter, longer }), ..ModelConfig::detr("resnet18").unwrap() };
            config.validate().map_err(|e| e.to_string())
        };
        assert_eq!(check(336, 448), Ok(()));
        for (shorter, longer) in [(0, 448), (448, 336), (1, usize::MAX)] {
            let error = check(shorter, longer).unwrap_err();
            assert!(error.contains("resize."), "{error}");
        }
    }
}
