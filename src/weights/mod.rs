//! Reading and writing checkpoints.
//!
//! [`load`] recognizes by its contents, not by its name:
//!
//! | source | names | configuration |
//! | --- | --- | --- |
//! | our own safetensors, written by [`save`] | ours | in the metadata |
//! | a Hugging Face folder, or the safetensors in it | timm-named or native ResNet, transformers 4 and 5 | `config.json` |
//! | the original DETR's `.pth`, zip or older form; also as safetensors | the original's | from shapes |
//! | torchvision's ResNet and MobileNetV2 | torchvision's | none: a backbone alone |
//!
//! **Names.** Ours are those of the original DETR's state dict, except that packed attention projections are three parameters:
//! `self_attn.in_proj_weight` is `self_attn.{q,k,v}_proj.weight`. [`names`] has one table a source, read in both directions.
//!
//! **Layout.** In memory a convolution's weight is `[out, kh, kw, in/groups]`; in every file, ours too, it is PyTorch's
//! `[out, in/groups, kh, kw]`. This module is the only place that transposes.
//!
//! **Element types.** `f32` and `f16` stay as they are stored, `bf16` and `f64` become `f32`. Batch norm's integer step counters
//! are dropped.
//!
//! **What shapes do not show.** A `.pth` has no configuration. Depths, widths, queries and classes are read from shapes; 8 heads
//! and an undilated backbone are assumed, unless the checkpoint is of the original training script and so brings its arguments.
//! Set [`ModelConfig::heads`] and [`ResNet::dilated_c5`](crate::models::config::ResNet::dilated_c5) where that is wrong.
//!
//! **Trust.** Nothing in a file is executed, and no length in it is believed. Pickles go through a reader that knows a dozen
//! names and refuses all others; what is allocated is bounded by the size of the file. Files are mapped into memory while they
//! are read.

mod contents;
mod fit;
mod huggingface;
mod infer;
pub mod names;
mod pickle;
mod pytorch;
mod raw;
mod safetensors;
mod save;

pub use fit::{Extras, fit};
pub use save::save;

use crate::models::ModelConfig;
use crate::tensor::Host;
use crate::{Error, Result};
use contents::Contents;
use names::Dialect;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A checkpoint in memory: our names, our layout.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The model; `None` for a backbone alone.
    pub config: Option<ModelConfig>,
    /// Parameters and batch norm statistics by our names; tensors that the source's table does not know keep theirs.
    pub tensors: BTreeMap<String, Host>,
    /// The metadata of a safetensors file, without the entries that are ours.
    pub metadata: BTreeMap<String, String>,
    /// Whose names the file uses, for messages.
    pub dialect: Dialect,
    /// The file or folder.
    pub source: PathBuf,
}

/// Reads a checkpoint from a file or a Hugging Face folder; see the [module](self) for what can be read.
///
/// The weights are not yet held against a model: [`fit`] does that.
///
/// # Errors
/// [`Error::Io`] when something cannot be opened, [`Error::Format`] for everything else: damaged, truncated, of another kind, of
/// a model that we do not have. The text is one line and says what was expected and found.
pub fn load(path: &Path) -> Result<Checkpoint> {
    let kind = std::fs::metadata(path).map_err(Error::io(path))?;
    if kind.is_dir() {
        let folder = huggingface::folder(path)?;
        return load_files(path, &folder.weights, Some(&folder.config));
    }
    let config = path.with_file_name("config.json");
    load_files(path, &[path.to_owned()], Some(config.as_path()).filter(|config| config.is_file()))
}

/// Reads a checkpoint file that is in memory, such as one that a program brings along; `name` stands for its path in errors.
///
/// # Errors
/// [`Error::Format`], as [`load`].
pub fn parse(bytes: &[u8], name: &Path) -> Result<Checkpoint> {
    assemble(name, &[(name, bytes)], None)
}

/// Reads one checkpoint from one file, or from several that are parts of it.
fn load_files(source: &Path, files: &[PathBuf], config: Option<&Path>) -> Result<Checkpoint> {
    let maps = files.iter().map(|file| contents::map(file)).collect::<Result<Vec<_>>>()?;
    let parts: Vec<(&Path, &[u8])> = files.iter().zip(&maps).map(|(file, map)| (file.as_path(), &map[..])).collect();
    assemble(source, &parts, config)
}

fn assemble(source: &Path, parts: &[(&Path, &[u8])], config: Option<&Path>) -> Result<Checkpoint> {
    let mut all = Contents::default();
    for (file, bytes) in parts {
        let part = contents::read(bytes, file).map_err(|what| Error::format(file, what))?;
        all.tensors.extend(part.tensors);
        all.metadata.extend(part.metadata);
        all.hints = part.hints;
    }
    let path = if let [(file, _)] = parts { file } else { source };
    let wrong = |what: String| Error::format(path, what);
    let own = own_format(&mut all.metadata).map_err(wrong)?;
    let (dialect, tensors) = contents::convert(&all, own.is_some(), parts.iter().map(|p| p.1.len()).sum()).map_err(wrong)?;
    let config = match own {
        Some(config) => config,
        None if !infer::is_detector(&tensors) => None,
        None => Some(match config.filter(|_| dialect.is_hugging_face()) {
            Some(json) => huggingface::config(json, &tensors)?,
            None => infer::config(&tensors, &all.hints).map_err(wrong)?,
        }),
    };
    Ok(Checkpoint { config, tensors, metadata: all.metadata, dialect, source: source.to_owned() })
}

/// Takes our entries out of the metadata: `None` when the file is not ours, else the configuration, if it has one.
fn own_format(metadata: &mut BTreeMap<String, String>) -> Result<Option<Option<ModelConfig>>, String> {
    let Some(format) = metadata.remove(save::FORMAT_KEY) else { return Ok(None) };
    if format.parse::<u32>().is_ok_and(|format| format > save::FORMAT) {
        return Err(format!("has the format {format}, this program reads up to {}: update qdetr", save::FORMAT));
    }
    if format.parse::<u32>().is_err() {
        return Err(format!("has the format {}, which is no number", raw::quoted(&format)));
    }
    let Some(json) = metadata.remove(save::CONFIG_KEY) else { return Ok(Some(None)) };
    let bad = |e: String| format!("has a bad model configuration in its metadata: {}", e.escape_debug());
    let config: ModelConfig = serde_json::from_str(&json).map_err(|e| bad(e.to_string()))?;
    config.validate().map_err(|e| bad(e.to_string()))?;
    Ok(Some(Some(config)))
}
