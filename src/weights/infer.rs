//! A configuration from the shapes of a checkpoint's tensors, for sources that bring none.
//!
//! Names and shapes show the backbone's kind, depths and widths, the transformer's width, layers and feed-forward width, queries
//! and classes, and whether queries look around points (SMCA-DETR). They do not show the number of attention heads (8 is assumed,
//! as in every published DETR), nor whether the last stage of a ResNet is dilated (DC5; not, is assumed), nor the names of the
//! classes. The arguments in a checkpoint of the original training script tell the first two.

use super::contents::Hints;
use super::raw::{quoted, torch_dims};
use crate::models::ModelConfig;
use crate::models::config::{Alignment, Attention, Backbone, Block, MobileNetV2, ResNet};
use crate::tensor::Host;
use std::collections::BTreeMap;

/// Heads of every published DETR.
const HEADS: usize = 8;

/// Whether the tensors are those of a detector, or of a backbone alone.
pub(super) fn is_detector(tensors: &BTreeMap<String, Host>) -> bool {
    ["transformer.", "query_embed.", "class_embed.", "bbox_embed."].into_iter().any(|part| below(tensors, part).next().is_some())
}

/// The configuration of a detector.
///
/// # Errors
/// When tensors that would show it are missing or misshapen, or the model is a variant that we do not have; in words that follow
/// the file's path.
pub(super) fn config(tensors: &BTreeMap<String, Host>, hints: &Hints) -> Result<ModelConfig, String> {
    for (prefix, what) in [("transformer.encoder.norm.", "pre-norm layers"), ("backbone.1.", "learned position embeddings")] {
        if let Some(name) = below(tensors, prefix).next() {
            return Err(format!("the weights are of a model with {what}, which is not supported: there is {}", quoted(name)));
        }
    }
    let [queries, d_model] = dims(tensors, "query_embed.weight")?;
    let [outputs, _] = dims(tensors, "class_embed.weight")?;
    let [ffn, _] = dims(tensors, "transformer.decoder.layers.0.linear1.weight")?;
    let mut backbone = backbone(tensors)?;
    if let (Backbone::Resnet(resnet), Some(dilated)) = (&mut backbone, hints.dilated_c5) {
        resnet.dilated_c5 = dilated;
    }
    let smca = below(tensors, "transformer.decoder.layers.0.point1.").next().is_some();
    let attention = if smca { Attention::Smca } else { Attention::Plain };
    let config = ModelConfig {
        backbone,
        d_model,
        heads: hints.heads.unwrap_or(HEADS),
        encoder_layers: count(tensors, "transformer.encoder.layers."),
        decoder_layers: count(tensors, "transformer.decoder.layers."),
        ffn,
        queries,
        classes: outputs - 1,
        class_names: Vec::new(),
        attention,
        alignment: Alignment::None,
        resize: None,
        quantization: None,
    };
    config.validate().map_err(|e| format!("the weights are of a model that cannot be: {e}"))?;
    Ok(config)
}

/// The backbone of a detector, or of a file that holds a backbone alone.
///
/// # Errors
/// As [`config`].
pub(super) fn backbone(tensors: &BTreeMap<String, Host>) -> Result<Backbone, String> {
    if below(tensors, "backbone.0.body.features.").next().is_none() {
        return resnet(tensors).map(Backbone::Resnet);
    }
    match dims(tensors, "input_proj.weight") {
        Ok([_, 320, 1, 1]) | Err(_) => Ok(Backbone::MobilenetV2(MobileNetV2 { stride: 32 })),
        Ok([_, 96, 1, 1]) => Ok(Backbone::MobilenetV2(MobileNetV2 { stride: 16 })),
        Ok([_, channels, ..]) => {
            Err(format!("the weights project {channels} channels of a MobileNetV2; want 320 (stride 32) or 96 (stride 16)"))
        }
    }
}

fn resnet(tensors: &BTreeMap<String, Host>) -> Result<ResNet, String> {
    let [stem, ..] = dims::<4>(tensors, "backbone.0.body.conv1.weight")?;
    let bottleneck = tensors.contains_key("backbone.0.body.layer1.0.conv3.weight");
    let (block, last) = if bottleneck { (Block::Bottleneck, "conv3") } else { (Block::Basic, "conv2") };
    let mut resnet = ResNet { block, depths: [0; 4], stem, widths: [0; 4], dilated_c5: false };
    for (i, stage) in (1..=4).enumerate() {
        [resnet.widths[i], ..] = dims::<4>(tensors, &format!("backbone.0.body.layer{stage}.0.{last}.weight"))?;
        resnet.depths[i] = count(tensors, &format!("backbone.0.body.layer{stage}."));
    }
    Ok(resnet)
}

/// Names that begin so.
fn below<'a>(tensors: &'a BTreeMap<String, Host>, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    tensors.range(prefix.to_owned()..).map(|(name, _)| name.as_str()).take_while(move |name| name.starts_with(prefix))
}

/// One more than the highest number behind a prefix.
fn count(tensors: &BTreeMap<String, Host>, prefix: &str) -> usize {
    let number = |name: &str| name[prefix.len()..].split('.').next()?.parse::<usize>().ok()?.checked_add(1);
    below(tensors, prefix).filter_map(number).max().unwrap_or(0)
}

/// The dimensions of a tensor, in PyTorch's order.
fn dims<const RANK: usize>(tensors: &BTreeMap<String, Host>, name: &str) -> Result<[usize; RANK], String> {
    const UNKNOWN: &str = "the weights do not show what model they are of";
    let tensor = tensors.get(name).ok_or_else(|| format!("{UNKNOWN}: there is no `{name}`"))?;
    let dims = torch_dims(tensor.shape());
    <[usize; RANK]>::try_from(dims).map_err(|dims| format!("{UNKNOWN}: `{name}` has shape {dims:?}, want {RANK} dimensions"))
}
