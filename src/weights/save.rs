//! Writing our own checkpoints: safetensors in PyTorch's layout, the configuration in the metadata.
//!
//! The header is written here and not by the safetensors library, which keeps metadata in a map of random order: the same model
//! shall be the same bytes.

use super::raw::{torch_bytes, torch_dims};
use crate::files::write_whole;
use crate::models::ModelConfig;
use crate::tensor::{DType, Host};
use crate::{Error, Result};
use ::safetensors::Dtype;
use ::safetensors::tensor::TensorInfo;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Metadata key of the configuration, as JSON.
pub(super) const CONFIG_KEY: &str = "qdetr.config";
/// Metadata key of the format's version.
pub(super) const FORMAT_KEY: &str = "qdetr.format";
/// The version that this program writes, and the newest it reads.
pub(super) const FORMAT: u32 = 1;

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
    let mut metadata = metadata.clone();
    metadata.insert(FORMAT_KEY.into(), FORMAT.to_string());
    metadata.remove(CONFIG_KEY);
    if let Some(config) = config {
        config.validate()?;
        let json = serde_json::to_string(config).map_err(|e| Error::Config(e.to_string()))?;
        metadata.insert(CONFIG_KEY.into(), json);
    }
    // Wide elements first: then every tensor is aligned.
    let mut order: Vec<(&String, &Host)> = tensors.iter().collect();
    order.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.dtype().size()));
    let header = header(&order, metadata).map_err(|e| Error::format(path, format!("cannot be written: {e}")))?;
    write_whole(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        order.iter().try_for_each(|(_, tensor)| file.write_all(&torch_bytes(tensor)))
    })
}

fn header(order: &[(&String, &Host)], metadata: BTreeMap<String, String>) -> serde_json::Result<Vec<u8>> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), serde_json::to_value(metadata)?);
    let mut end = 0;
    for &(name, tensor) in order {
        let start = end;
        end += tensor.shape().len() * tensor.dtype().size();
        let dtype = match tensor.dtype() {
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::U32 => Dtype::U32,
            DType::I8 => Dtype::I8,
        };
        let info = TensorInfo { dtype, shape: torch_dims(tensor.shape()), data_offsets: (start, end) };
        header.insert(name.clone(), serde_json::to_value(info)?);
    }
    let mut text = serde_json::to_vec(&Value::Object(header))?;
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok(text)
}
