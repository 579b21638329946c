//! Hugging Face folders: `config.json` beside `model.safetensors` (whole or in shards) or `pytorch_model.bin`.

use super::infer;
use super::raw::quoted;
use crate::files::read_text;
use crate::models::ModelConfig;
use crate::models::config::{Alignment, Attention, Backbone, Block, ResNet};
use crate::tensor::Host;
use crate::{Error, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// No configuration or index is longer; what is, is something else.
const LONGEST_JSON: u64 = 64 << 20;

/// A folder's configuration and its files of weights.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) config: PathBuf,
    pub(super) weights: Vec<PathBuf>,
}

/// Finds what belongs to the model in a folder.
///
/// # Errors
/// When the configuration or the weights are missing, the model is no DETR, or the index of shards is none.
pub(super) fn folder(path: &Path) -> Result<Folder> {
    let config = path.join("config.json");
    if !config.is_file() {
        return Err(Error::format(path, "is a folder without `config.json`; want a Hugging Face model folder or a checkpoint file"));
    }
    // Before gigabytes of another model are read.
    read_json::<Detr>(&config)?.is_detector().map_err(|what| Error::format(&config, what))?;
    let index = path.join("model.safetensors.index.json");
    let whole = ["model.safetensors", "pytorch_model.bin"].map(|name| path.join(name));
    let weights = match whole.into_iter().find(|file| file.is_file()) {
        Some(file) => vec![file],
        None if index.is_file() => shards(path, &index)?,
        None => return Err(Error::format(path, "has a `config.json`, but neither `model.safetensors` nor `pytorch_model.bin`")),
    };
    Ok(Folder { config, weights })
}

fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let map: Index = read_json(index)?;
    let names: BTreeSet<String> = map.weight_map.into_values().collect();
    if let Some(name) = names.iter().find(|name| Path::new(name).file_name().is_none_or(|file| file != name.as_str())) {
        return Err(Error::format(index, format!("names the shard {}; want the name of a file in the same folder", quoted(name))));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = read_text(path, LONGEST_JSON)?;
    serde_json::from_str(&text).map_err(|e| Error::format(path, format!("is not the JSON it should be: {}", e.to_string().escape_debug())))
}

/// The model that a `config.json` describes; the tensors tell what it leaves to a download.
///
/// # Errors
/// When it is no DETR, or of a kind that we do not have; the text names the key and its value.
pub(super) fn config(path: &Path, tensors: &BTreeMap<String, Host>) -> Result<ModelConfig> {
    let json: Detr = read_json(path)?;
    json.config(tensors).map_err(|what| Error::format(path, what))
}

/// What the two attentions of a `config.json` may say; the defaults are those of transformers' `DetrConfig`.
#[derive(Deserialize)]
#[serde(default)]
struct Detr {
    model_type: String,
    architectures: Option<Vec<String>>,
    d_model: usize,
    encoder_layers: usize,
    decoder_layers: usize,
    encoder_attention_heads: usize,
    decoder_attention_heads: usize,
    encoder_ffn_dim: usize,
    decoder_ffn_dim: usize,
    num_queries: usize,
    num_channels: usize,
    activation_function: String,
    position_embedding_type: String,
    id2label: Option<BTreeMap<usize, String>>,
    num_labels: Option<usize>,
    use_timm_backbone: Option<bool>,
    backbone: Option<String>,
    backbone_kwargs: Option<BackboneJson>,
    backbone_config: Option<BackboneJson>,
    dilation: Option<bool>,
}

impl Default for Detr {
    fn default() -> Self {
        Self {
            model_type: String::new(),
            architectures: None,
            d_model: 256,
            encoder_layers: 6,
            decoder_layers: 6,
            encoder_attention_heads: 8,
            decoder_attention_heads: 8,
            encoder_ffn_dim: 2048,
            decoder_ffn_dim: 2048,
            num_queries: 100,
            num_channels: 3,
            activation_function: "relu".into(),
            position_embedding_type: "sine".into(),
            id2label: None,
            num_labels: None,
            use_timm_backbone: None,
            backbone: None,
            backbone_kwargs: None,
            backbone_config: None,
            dilation: None,
        }
    }
}

/// `backbone_config` or `backbone_kwargs`; the defaults are those of transformers' `ResNetConfig`.
#[derive(Deserialize)]
#[serde(default)]
struct BackboneJson {
    model_type: Option<String>,
    /// Of a `timm_backbone`.
    backbone: Option<String>,
    /// Of a `timm_backbone`: 16 for DC5.
    output_stride: Option<usize>,
    num_channels: usize,
    embedding_size: usize,
    hidden_sizes: Vec<usize>,
    depths: Vec<usize>,
    layer_type: String,
    hidden_act: String,
    downsample_in_first_stage: bool,
    downsample_in_bottleneck: bool,
    out_features: Option<Vec<String>>,
}

impl Default for BackboneJson {
    fn default() -> Self {
        Self {
            model_type: None,
            backbone: None,
            output_stride: None,
            num_channels: 3,
            embedding_size: 64,
            hidden_sizes: vec![256, 512, 1024, 2048],
            depths: vec![3, 4, 6, 3],
            layer_type: "bottleneck".into(),
            hidden_act: "relu".into(),
            downsample_in_first_stage: false,
            downsample_in_bottleneck: false,
            out_features: None,
        }
    }
}

/// Refuses a value that we do not have.
fn want<T: PartialEq + std::fmt::Debug>(key: &str, found: T, wanted: T) -> Result<(), String> {
    if found == wanted {
        return Ok(());
    }
    let found: String = format!("{found:?}").chars().take(120).collect();
    Err(format!("`{key}` is {found}; only {wanted:?} is supported"))
}

impl Detr {
    fn is_detector(&self) -> Result<(), String> {
        want("model_type", self.model_type.as_str(), "detr")?;
        if self.architectures.iter().flatten().any(|name| name.contains("Segmentation")) {
            return Err("`architectures` names a segmentation model; only detection is supported".into());
        }
        Ok(())
    }

    fn config(self, tensors: &BTreeMap<String, Host>) -> Result<ModelConfig, String> {
        self.is_detector()?;
        want("activation_function", self.activation_function.as_str(), "relu")?;
        want("position_embedding_type", self.position_embedding_type.as_str(), "sine")?;
        want("num_channels", self.num_channels, 3)?;
        want("decoder_attention_heads", self.decoder_attention_heads, self.encoder_attention_heads)?;
        want("decoder_ffn_dim", self.decoder_ffn_dim, self.encoder_ffn_dim)?;
        let backbone = self.backbone(tensors)?;
        let (classes, class_names) = self.classes(tensors)?;
        let config = ModelConfig {
            backbone,
            d_model: self.d_model,
            heads: self.encoder_attention_heads,
            encoder_layers: self.encoder_layers,
            decoder_layers: self.decoder_layers,
            ffn: self.encoder_ffn_dim,
            queries: self.num_queries,
            classes,
            class_names,
            attention: Attention::Plain,
            alignment: Alignment::None,
            resize: None,
            quantization: None,
        };
        config.validate().map_err(|e| format!("describes a model that cannot be: {e}"))?;
        Ok(config)
    }

    /// Number and names of the classes. transformers fills in `LABEL_0`, `LABEL_1`, …, where nobody named them.
    fn classes(&self, tensors: &BTreeMap<String, Host>) -> Result<(usize, Vec<String>), String> {
        let Some(labels) = self.id2label.as_ref().filter(|labels| !labels.is_empty()) else {
            let rows = tensors.get("class_embed.weight").map(|weight| weight.shape().dims()[0] - 1);
            let classes = self.num_labels.or(rows).ok_or("has no `id2label`, and the weights have no classifier")?;
            return Ok((classes, Vec::new()));
        };
        if let Some((place, (id, _))) = labels.iter().enumerate().find(|(place, (id, _))| place != *id) {
            return Err(format!("`id2label` has the id {id} in place of {place}; want ids from 0 to {}", labels.len() - 1));
        }
        let unnamed = labels.iter().all(|(id, name)| *name == format!("LABEL_{id}"));
        let names = if unnamed { Vec::new() } else { labels.values().cloned().collect() };
        Ok((labels.len(), names))
    }

    fn backbone(&self, tensors: &BTreeMap<String, Host>) -> Result<Backbone, String> {
        let kind = self.backbone_config.as_ref().and_then(|backbone| backbone.model_type.as_deref());
        match (&self.backbone_config, kind) {
            (Some(resnet), Some("resnet")) => resnet.resnet().map(Backbone::Resnet),
            (Some(timm), Some("timm_backbone")) => self.timm(timm.backbone.as_deref(), timm.output_stride, tensors),
            (Some(_), kind) => {
                let kind = quoted(kind.unwrap_or("none"));
                Err(format!("`backbone_config.model_type` is {kind}; only `resnet` and `timm_backbone` are supported"))
            }
            (None, _) if self.use_timm_backbone.unwrap_or(true) => {
                let stride = self.backbone_kwargs.as_ref().and_then(|arguments| arguments.output_stride);
                self.timm(self.backbone.as_deref(), stride, tensors)
            }
            // transformers would ask the hub what this backbone is; the weights know.
            (None, _) => infer::backbone(tensors),
        }
    }

    /// A timm model, perhaps with the tag of its training behind a dot, as in `resnet50.a1_in1k`. Its depths and widths stand in
    /// the weights alone.
    fn timm(&self, name: Option<&str>, output_stride: Option<usize>, tensors: &BTreeMap<String, Host>) -> Result<Backbone, String> {
        let name = name.unwrap_or("resnet50");
        let plain = name.split('.').next().and_then(|name| name.strip_prefix("resnet"));
        if plain.is_none_or(|layers| layers.parse::<u32>().is_err()) {
            return Err(format!("`backbone` is {}; of timm's models only resnet18, resnet34, resnet50, … are supported", quoted(name)));
        }
        let mut backbone = infer::backbone(tensors)?;
        let stride = output_stride.unwrap_or(if self.dilation == Some(true) { 16 } else { 32 });
        match (&mut backbone, stride) {
            (_, 32) => {}
            (Backbone::Resnet(resnet), 16) => resnet.dilated_c5 = true,
            _ => return Err(format!("`output_stride` is {stride}; want 32, or 16 for a dilated last stage")),
        }
        Ok(backbone)
    }
}

impl BackboneJson {
    fn resnet(&self) -> Result<ResNet, String> {
        want("backbone_config.num_channels", self.num_channels, 3)?;
        want("backbone_config.hidden_act", self.hidden_act.as_str(), "relu")?;
        want("backbone_config.downsample_in_first_stage", self.downsample_in_first_stage, false)?;
        let block = match self.layer_type.as_str() {
            "basic" => Block::Basic,
            "bottleneck" => Block::Bottleneck,
            other => return Err(format!("`backbone_config.layer_type` is {}; want `basic` or `bottleneck`", quoted(other))),
        };
        if block == Block::Bottleneck {
            want("backbone_config.downsample_in_bottleneck", self.downsample_in_bottleneck, false)?;
        }
        if let Some(last) = self.out_features.as_ref().and_then(|features| features.last()) {
            want("the last of backbone_config.out_features", last.as_str(), "stage4")?;
        }
        let four = |key: &str, values: &[usize]| {
            <[usize; 4]>::try_from(values).map_err(|_| format!("`backbone_config.{key}` has {} values; want four", values.len()))
        };
        let (depths, widths) = (four("depths", &self.depths)?, four("hidden_sizes", &self.hidden_sizes)?);
        Ok(ResNet { block, depths, stem: self.embedding_size, widths, dilated_c5: false })
    }
}
