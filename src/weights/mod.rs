//! Reading and writing checkpoints.
//!
//! [`load`] recognizes by its contents, not by its name:
//!
//! | source | names | configuration |
//! | --- | --- | --- |
//! | our own safetensors, written by [`save`] or, with weights as codes, [`save_packed`] | ours | in the metadata |
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
mod packed;
mod pickle;
mod pytorch;
mod raw;
mod safetensors;
mod save;

pub use fit::{Extras, fit};
pub(crate) use packed::Fnv;
pub use save::{save, save_packed};

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
    /// The weights that the file holds as codes, with their bits; here they are what the codes stand for, in `f32`.
    pub packed: BTreeMap<String, u32>,
    /// The metadata of a safetensors file, without the entries that are ours.
    pub metadata: BTreeMap<String, String>,
    /// Whose names the file uses, for messages.
    pub dialect: Dialect,
    /// The file or folder.
    pub source: PathBuf,
    /// Bytes of the file, or of the files of weights in the folder.
    pub bytes: usize,
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
    let own = own_format(&mut all).map_err(wrong)?;
    let bytes = parts.iter().map(|(_, bytes)| bytes.len()).sum();
    let (dialect, mut tensors) = contents::convert(&all, own.is_some(), bytes).map_err(wrong)?;
    let Own { config, packed, floats } = match own {
        Some(own) => own,
        None if !infer::is_detector(&tensors) => Own::default(),
        None => Own {
            config: Some(match config.filter(|_| dialect.is_hugging_face()) {
                Some(json) => huggingface::config(json, &tensors)?,
                None => infer::config(&tensors, &all.hints).map_err(wrong)?,
            }),
            ..Own::default()
        },
    };
    tensors.extend(floats);
    Ok(Checkpoint { config, tensors, packed, metadata: all.metadata, dialect, source: source.to_owned(), bytes })
}

/// What only files of ours tell.
#[derive(Debug, Default)]
struct Own {
    config: Option<ModelConfig>,
    /// Bits of packed weights.
    packed: BTreeMap<String, u32>,
    /// The same weights, unpacked.
    floats: BTreeMap<String, Host>,
}

/// Takes our entries out of the metadata, and what is packed out of the tensors: `None` when the file is not ours.
fn own_format(all: &mut Contents) -> Result<Option<Own>, String> {
    let Some(format) = all.metadata.remove(save::FORMAT_KEY) else { return Ok(None) };
    match format.parse() {
        Ok(save::PLAIN) => {
            let config = all.metadata.remove(save::CONFIG_KEY).map(|json| own_config(&json)).transpose()?;
            Ok(Some(Own { config, ..Own::default() }))
        }
        Ok(save::PACKED) => own_packed(all).map(Some),
        Ok(newer) if newer > save::PACKED => {
            Err(format!("has the format {newer}, this program reads up to {}: update qdetr", save::PACKED))
        }
        _ => Err(format!("has the format {}, which is no format of ours", raw::quoted(&format))),
    }
}

/// A file with packed weights; see [`packed`].
fn own_packed(all: &mut Contents) -> Result<Own, String> {
    let mut entry = |key: &str| all.metadata.remove(key).ok_or_else(|| format!("is of packed weights, but its metadata has no `{key}`"));
    let (config, index, sum) = (entry(save::CONFIG_KEY)?, entry(packed::INDEX_KEY)?, entry(packed::CHECKSUM_KEY)?);
    // The reader of safetensors gives tensors by name.
    let found = packed::checksum(&config, &index, all.tensors.iter().map(|(name, raw)| (name.as_str(), raw.storage())));
    if found != sum {
        return Err(format!("is damaged: its checksum is {found}, its metadata says {}", raw::quoted(&sum)));
    }
    let bad = |e: serde_json::Error| format!("has a bad `{}` in its metadata: {}", packed::INDEX_KEY, e.to_string().escape_debug());
    let index: packed::Index = serde_json::from_str(&index).map_err(bad)?;
    let config = own_config(&config)?;
    let floats = packed::floats(&index, &config, &mut all.tensors)?;
    Ok(Own { config: Some(config), packed: index.into_iter().map(|(name, entry)| (name, entry.bits)).collect(), floats })
}

fn own_config(json: &str) -> Result<ModelConfig, String> {
    let bad = |e: String| format!("has a bad model configuration in its metadata: {}", e.escape_debug());
    let config: ModelConfig = serde_json::from_str(json).map_err(|e| bad(e.to_string()))?;
    config.validate().map_err(|e| bad(e.to_string()))?;
    Ok(config)
}
