//! Writing our own checkpoints: safetensors in PyTorch's layout, the configuration in the metadata.
//!
//! The header is written here and not by the safetensors library, which keeps metadata in a map of random order: the same model
//! shall be the same bytes.

use super::packed;
use super::raw::{torch_bytes, torch_dims};
use crate::files::write_whole;
use crate::models::ModelConfig;
use crate::tensor::{DType, Host};
use crate::{Error, Result};
use ::safetensors::Dtype;
use ::safetensors::tensor::TensorInfo;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// Metadata key of the configuration, as JSON.
pub(super) const CONFIG_KEY: &str = "qdetr.config";
/// Metadata key of the format's version.
pub(super) const FORMAT_KEY: &str = "qdetr.format";
/// The version whose tensors are all as they are in memory.
pub(super) const PLAIN: u32 = 1;
/// The version with [packed](super::packed) weights, and the newest that this program reads.
pub(super) const PACKED: u32 = 2;

/// Writes a checkpoint: a whole model with its configuration, or parts of one, a backbone above all, with `None`.
///
/// Names are ours; convolution weights go out in PyTorch's `[out, in/groups, kh, kw]`, so that any reader of safetensors sees
/// what PyTorch users expect. The same arguments give the same bytes. The file appears whole or not at all: it is written
/// beside its place, flushed to disk and renamed.
///
/// ```
/// use qdetr::tensor::Host;
/// use std::collections::BTreeMap;
/// let path = std::env::temp_dir().join(format!("qdetr-doc-{}.safetensors", std::process::id()));
/// let tensors = BTreeMap::from([("input_proj.bias".to_owned(), Host::f32([2], vec![0.5, -1.0]))]);
/// qdetr::weights::save(&path, None, &tensors, &BTreeMap::new())?;
/// assert_eq!(qdetr::weights::load(&path)?.tensors, tensors);
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), qdetr::Error>(())
/// ```
///
/// # Errors
/// [`Error::Io`] when the file cannot be written, [`Error::Config`] when the configuration is none.
pub fn save(
    path: &Path,
    config: Option<&ModelConfig>,
    tensors: &BTreeMap<String, Host>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let mut metadata = with_format(metadata, PLAIN);
    if let Some(config) = config {
        metadata.insert(CONFIG_KEY.into(), json(config)?);
    }
    write(path, &tensors.iter().map(|(name, tensor)| (name.as_str(), Stored::Whole(tensor))).collect(), metadata)
}

/// Writes a quantized model for use: a file of its weights' codes at their real width, several times smaller than [`save`] writes and
/// with a checksum, from which the model computes the same to the bit.
///
/// [`load`](super::load) gives what the codes stand for; what the weights were between the codes, which training wants, is gone.
///
/// # Errors
/// [`Error::Io`] when the file cannot be written; [`Error::Config`] when the configuration is none, of floats, or contradicts the step
/// sizes; [`Error::NotFinite`] when a weight is no number.
pub fn save_packed(path: &Path, config: &ModelConfig, tensors: &BTreeMap<String, Host>, metadata: &BTreeMap<String, String>) -> Result<()> {
    let (config_text, packed) = (json(config)?, packed::codes(config, tensors)?);
    let index: packed::Index = packed.iter().map(|(name, (entry, _))| (name.clone(), entry.clone())).collect();
    let index = serde_json::to_string(&index).map_err(|e| Error::Config(e.to_string()))?;
    let stored = |(name, tensor)| match packed.get(name) {
        Some((_, bytes)) => (String::as_str(name), Stored::Packed(bytes)),
        None => (String::as_str(name), Stored::Whole(tensor)),
    };
    let stored: BTreeMap<&str, Stored> = tensors.iter().map(stored).collect();
    let sum = packed::checksum(&config_text, &index, stored.iter().map(|(name, tensor)| (*name, tensor.bytes())));
    let mut metadata = with_format(metadata, PACKED);
    metadata.insert(CONFIG_KEY.into(), config_text);
    metadata.insert(packed::INDEX_KEY.into(), index);
    metadata.insert(packed::CHECKSUM_KEY.into(), sum);
    write(path, &stored, metadata)
}

fn json(config: &ModelConfig) -> Result<String> {
    config.validate()?;
    serde_json::to_string(config).map_err(|e| Error::Config(e.to_string()))
}

/// The caller's metadata with our version, and with no other entry that is ours.
fn with_format(metadata: &BTreeMap<String, String>, format: u32) -> BTreeMap<String, String> {
    let mut metadata = metadata.clone();
    metadata.retain(|key, _| ![CONFIG_KEY, packed::INDEX_KEY, packed::CHECKSUM_KEY].contains(&key.as_str()));
    metadata.insert(FORMAT_KEY.into(), format.to_string());
    metadata
}

/// A tensor as it goes to the file.
enum Stored<'a> {
    Whole(&'a Host),
    Packed(&'a [u8]),
}

impl Stored<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Self::Packed(_) => Dtype::U8,
            Self::Whole(tensor) => match tensor.dtype() {
                DType::F32 => Dtype::F32,
                DType::F16 => Dtype::F16,
                DType::U32 => Dtype::U32,
                DType::I8 => Dtype::I8,
            },
        }
    }

    fn dims(&self) -> Vec<usize> {
        match self {
            Self::Packed(bytes) => vec![bytes.len()],
            Self::Whole(tensor) => torch_dims(tensor.shape()),
        }
    }

    fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Packed(bytes) => (*bytes).into(),
            Self::Whole(tensor) => torch_bytes(tensor).into(),
        }
    }
}

fn write(path: &Path, tensors: &BTreeMap<&str, Stored>, metadata: BTreeMap<String, String>) -> Result<()> {
    // Wide elements first: then every tensor is aligned.
    let mut order: Vec<(&str, &Stored)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    order.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.dtype().bitsize()));
    let header = header(&order, metadata).map_err(|e| Error::format(path, format!("cannot be written: {e}")))?;
    write_whole(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        order.iter().try_for_each(|(_, tensor)| file.write_all(&tensor.bytes()))
    })
}

fn header(order: &[(&str, &Stored)], metadata: BTreeMap<String, String>) -> serde_json::Result<Vec<u8>> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), serde_json::to_value(metadata)?);
    let mut end = 0;
    for &(name, tensor) in order {
        let (start, dtype, shape) = (end, tensor.dtype(), tensor.dims());
        end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let info = TensorInfo { dtype, shape, data_offsets: (start, end) };
        header.insert(name.to_owned(), serde_json::to_value(info)?);
    }
    let mut text = serde_json::to_vec(&Value::Object(header))?;
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok(text)
}
