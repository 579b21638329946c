//! The model that a subcommand works with: weights from a file, or a published architecture with random weights.

use clap::Args;
use qdetr::data::labels;
use qdetr::data::preprocess::Resize;
use qdetr::gpu::Gpu;
use qdetr::graph::Values;
use qdetr::models::config::Backbone;
use qdetr::models::detector::{specs, wants};
use qdetr::models::{BatchSize, Detector, ModelConfig, Results};
use qdetr::nn::{Precision, initialize};
use qdetr::quant::{Bits, Quantization};
use qdetr::weights::{self, Checkpoint, Extras};
use qdetr::{Error, Result};
use std::path::{Path, PathBuf};

/// torchvision's MobileNetV2, trained on ImageNet; origin and licence are in `assets/models/README.md`.
const MOBILENET: &[u8] = include_bytes!("../../assets/models/mobilenet_v2_imagenet.safetensors");

/// Our own DETR of blood cells; origin and licence are in `assets/models/README.md`.
const BLOOD_CELLS: &[u8] = include_bytes!("../../assets/models/blood_cells.safetensors");
const BUILT_IN: &str = "the built-in detector of blood cells";

/// Random weights are the same on every machine.
const SEED: u64 = 0;

/// Which model, and in what it computes.
#[derive(Args)]
pub(crate) struct ModelArgs {
    /// Weights: our .safetensors, a Hugging Face folder of a DETR, or an original DETR .pth [default: the built-in detector of blood
    /// cells]
    #[arg(long, value_name = "PATH", conflicts_with = "preset")]
    model: Option<PathBuf>,
    /// An untrained architecture, which finds nothing but takes the same time and memory: detr-resnet18, 34, 50, 101 (each also
    /// with -dc5), or detr-mobilenet_v2, whose backbone is trained
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Low bits of a preset: weights-activations-attention, such as 4-4-8
    #[arg(long, conflicts_with = "model")]
    bits: Option<Bits>,
    /// What to compute in
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub(crate) precision: Precision,
    /// Most device memory to take, such as 300MB: where a batch would take more, the first layers run on parts of it one after the
    /// other, which takes longer
    #[arg(long, value_name = "BYTES", value_parser = memory)]
    memory: Option<usize>,
}

/// A model in host memory.
pub(crate) struct Model {
    /// Its file or preset.
    pub(crate) name: String,
    pub(crate) config: ModelConfig,
    pub(crate) params: Values,
    /// What of it is random, if anything.
    pub(crate) random: Option<&'static str>,
    pub(crate) precision: Precision,
    /// Bytes of the device that it may take.
    memory: Option<usize>,
}

impl ModelArgs {
    /// Reads or draws the weights.
    pub(crate) fn load(&self) -> Result<Model> {
        let (name, (config, params)) = match (&self.model, &self.preset) {
            (Some(path), _) => (path.display().to_string(), read(path)?),
            (None, Some(preset)) => return self.draw(preset),
            (None, None) if self.bits.is_some() => {
                return Err(Error::Usage("--bits is for an untrained --preset; a trained model is quantized by `qdetr quantize`".into()));
            }
            (None, None) => (BUILT_IN.to_owned(), whole(Path::new(BUILT_IN), weights::parse(BLOOD_CELLS, Path::new(BUILT_IN))?)?),
        };
        Ok(Model { name, config, params, random: None, precision: self.precision, memory: self.memory })
    }

    /// As [`ModelArgs::load`], with a preset for when neither is named.
    pub(crate) fn load_or(&self, preset: &str) -> Result<Model> {
        if self.model.is_none() && self.preset.is_none() { self.draw(preset) } else { self.load() }
    }

    fn draw(&self, preset: &str) -> Result<Model> {
        let Some(backbone) = preset.strip_prefix("detr-") else {
            return Err(Error::Usage(format!("unknown preset `{preset}`; presets are named detr-BACKBONE, such as detr-resnet50")));
        };
        let config = ModelConfig::detr(backbone).map_err(|e| Error::Usage(e.to_string()))?;
        // Random weights take the same time whatever their step sizes are.
        let config = ModelConfig { quantization: self.bits.map(Quantization::new), ..config };
        let mut params = initialize(&specs(&config)?, SEED);
        let trained_backbone = matches!(config.backbone, Backbone::MobilenetV2(_));
        if trained_backbone {
            let mut backbone = wants(&config)?;
            backbone.retain(|(name, _)| name.starts_with("backbone."));
            params.extend(weights::fit(mobilenet()?, backbone, Extras::Ignore)?);
        }
        let random = Some(if trained_backbone { "its transformer is untrained" } else { "its weights are random" });
        Ok(Model { name: preset.to_owned(), config, params, random, precision: self.precision, memory: self.memory })
    }
}

/// A detector and all that it wants, from a file or a Hugging Face folder.
pub(crate) fn read(path: &Path) -> Result<(ModelConfig, Values)> {
    whole(path, weights::load(path)?)
}

/// The detector that a checkpoint is, which was read from the given place.
fn whole(path: &Path, checkpoint: Checkpoint) -> Result<(ModelConfig, Values)> {
    let Some(config) = checkpoint.config.clone() else {
        return Err(Error::format(path, "holds a backbone without a transformer; want a whole detector"));
    };
    let params = weights::fit(checkpoint, wants(&config)?, Extras::Refuse)?;
    Ok((config, params))
}

/// The ImageNet classifier that this program brings along.
pub(crate) fn mobilenet() -> Result<Checkpoint> {
    weights::parse(MOBILENET, Path::new("the built-in MobileNetV2"))
}

impl Model {
    /// The model on a device.
    pub(crate) fn detector(self, gpu: &Gpu, results: Results) -> Result<Detector> {
        Ok(Detector::new(gpu, self.config, self.params, self.precision, results)?.with_memory(self.memory))
    }
}

/// What a class is called: by the model's own list, or else, when it has COCO's 91 outputs, by COCO's.
pub(crate) fn class_name(config: &ModelConfig, id: usize) -> String {
    if config.class_names.is_empty() && config.classes == labels::coco91().len() {
        return labels::name(labels::coco91(), id).into_owned();
    }
    config.class_name(id)
}

/// How pictures are scaled before the model sees them.
#[derive(Args)]
pub(crate) struct ResizeArgs {
    /// Scale pictures until the shorter side has this many pixels … [default: as in the model's training, or 800]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    shorter: Option<u32>,
    /// … or the longer one this many, whichever is smaller [default: as in the model's training, or 1333]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    longer: Option<u32>,
}

impl ResizeArgs {
    /// What the arguments say, or else what a model of this configuration says, or else DETR.
    pub(crate) fn resize(&self, config: &ModelConfig) -> Result<Resize> {
        let Resize { shorter, longer } = config.resize.unwrap_or(Resize::DETR);
        let shorter = self.shorter.map_or(shorter, |n| n as usize);
        let longer = self.longer.map_or(longer, |n| n as usize);
        if longer < shorter {
            return Err(Error::Usage(format!("--longer {longer} is less than --shorter {shorter}")));
        }
        Ok(Resize { shorter, longer })
    }
}

/// A batch of pictures of one size.
#[derive(Args)]
pub(crate) struct SizeArgs {
    /// Height and width of the pictures
    #[arg(long, value_name = "HEIGHTxWIDTH", default_value = "800x1066", value_parser = extent)]
    size: [usize; 2],
    /// Pictures at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
}

impl SizeArgs {
    pub(crate) fn size(&self) -> BatchSize {
        BatchSize { images: self.batch as usize, height: self.size[0], width: self.size[1] }
    }
}

/// Bytes, as a number or with a unit as our reports have it.
fn memory(text: &str) -> Result<usize, String> {
    let units = [("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("B", 1.0)];
    let (number, unit) = units.into_iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit))).unwrap_or((text, 1.0));
    let bytes = number.trim().parse::<f64>().ok().map(|n| n * unit).filter(|n| (1.0..=1e15).contains(n));
    bytes.map(|n| n as usize).ok_or_else(|| "want bytes, such as 300MB or 1.5GB".into())
}

fn extent(text: &str) -> Result<[usize; 2], String> {
    let side = |text: &str| text.parse().ok().filter(|n| (1..=1 << 16).contains(n));
    let sides = text.split_once(['x', '×']).and_then(|(height, width)| Some([side(height)?, side(width)?]));
    sides.ok_or_else(|| "want HEIGHTxWIDTH in pixels, such as 800x1066".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_a_unit_or_is_bytes() {
        for (text, bytes) in [("300MB", 300_000_000), ("1.5 GB", 1_500_000_000), ("20kB", 20_000), ("7B", 7), ("4096", 4096)] {
            assert_eq!(memory(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "MB", "-1MB", "0", "nanGB", "infGB", "1e30", "300 MiB", "much"] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_height_by_width() {
        assert_eq!(extent("800x1066"), Ok([800, 1066]));
        for wrong in ["800", "0x5", "x", "-3x4", "99999999x1", "3x4x5"] {
            assert!(extent(wrong).is_err(), "{wrong}");
        }
    }
}
