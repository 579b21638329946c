//! From a file's bytes to tensors under our names: what kind of file it is, whose names it uses, and the conversion.

use super::names::Dialect;
use super::pytorch;
use super::raw::{Element, RawTensor, quoted};
use super::safetensors;
use crate::tensor::Host;
use crate::{Error, Result};
use memmap2::Mmap;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

/// What a file holds, still under its own names.
#[derive(Debug, Default)]
pub(super) struct Contents<'a> {
    pub(super) tensors: Vec<(String, RawTensor<'a>)>,
    /// Of safetensors files.
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) hints: Hints,
}

/// Parts of a configuration that shapes do not show, where a file tells them otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Hints {
    pub(super) heads: Option<usize>,
    pub(super) dilated_c5: Option<bool>,
}

/// Maps a file into memory.
///
/// # Errors
/// [`Error::Io`], and [`Error::Format`] for what is no file or is empty.
pub(super) fn map(path: &Path) -> Result<Mmap> {
    let kind = std::fs::metadata(path).map_err(Error::io(path))?;
    if !kind.is_file() {
        return Err(Error::format(path, "is no regular file; want a checkpoint (.safetensors, .pth) or a Hugging Face folder"));
    }
    if kind.len() == 0 {
        return Err(Error::format(path, "is empty; want a checkpoint (.safetensors, .pth)"));
    }
    let file = File::open(path).map_err(Error::io(path))?;
    // SAFETY: the mapping is read-only and private to this process, and lives only while the file is read. Whoever truncates
    // the file in this moment ends the process with a bus error, as with every program that maps its weights.
    unsafe { Mmap::map(&file) }.map_err(Error::io(path))
}

/// Reads a file of any kind that we know, by what it holds and not by its name.
///
/// # Errors
/// In words that follow the file's path.
pub(super) fn read<'a>(bytes: &'a [u8], path: &Path) -> Result<Contents<'a>, String> {
    match bytes {
        [b'P', b'K', 3, 4, ..] => pytorch::read_zip(bytes),
        [0x80, ..] if bytes.get(8) != Some(&b'{') => pytorch::read_legacy(bytes),
        _ => match foreign(bytes) {
            Some(kind) => Err(format!("is {kind}; want a checkpoint (.safetensors, .pth) or a Hugging Face folder")),
            None if bytes.get(8) == Some(&b'{') || path.extension().is_some_and(|e| e == "safetensors") => safetensors::read(bytes),
            None => Err("is neither a safetensors file nor a PyTorch checkpoint".into()),
        },
    }
}

/// Files that people mistake for a checkpoint, by their first bytes.
fn foreign(bytes: &[u8]) -> Option<&'static str> {
    const KINDS: [(&[u8], &str); 12] = [
        (b"\xff\xd8\xff", "a JPEG picture"),
        (b"\x89PNG", "a PNG picture"),
        (b"GIF8", "a GIF picture"),
        (b"RIFF", "a WebP picture or another RIFF file"),
        (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
        (b"{", "a JSON file"),
        (b"<", "an HTML or XML page: the download failed"),
        (b"%PDF", "a PDF file"),
        (b"\x1f\x8b", "a gzip archive: unpack it first"),
        (b"\x89HDF", "an HDF5 file (Keras)"),
        (b"GGUF", "a GGUF file"),
        (b"\x7fELF", "a program"),
    ];
    if bytes.get(257..262) == Some(b"ustar") {
        return Some("a tar archive (also the form of PyTorch before 0.4: load and save it with a newer one)");
    }
    KINDS.into_iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, kind)| kind)
}

/// Tensors under our names and in our layout, and whose names they had. What the source's table does not know keeps its name.
///
/// # Errors
/// In words that follow the file's path.
pub(super) fn convert(contents: &Contents, own: bool, file_size: usize) -> Result<(Dialect, BTreeMap<String, Host>), String> {
    let tensors = &contents.tensors;
    let names = tensors.iter().map(|(name, _)| name.as_str());
    let detected = if own { Some(Dialect::Qdetr) } else { Dialect::detect(names) };
    let Some(dialect) = detected else {
        let first = tensors.first().map(|(name, _)| format!(", the first is {}", quoted(name))).unwrap_or_default();
        return Err(format!("holds {} tensors, none of a DETR or of a torchvision backbone{first}", tensors.len()));
    };
    let views = places(tensors, dialect)?;
    // A few bytes of pickle may describe one storage many times: tied weights do, but not to this extent.
    let total = views.iter().try_fold(0usize, |sum, (_, raw)| sum.checked_add(raw.bytes()?));
    if total.is_none_or(|total| total / 4 > file_size) {
        return Err("describes tensors of more than four times its own size".into());
    }
    let load = |(name, raw): &(String, RawTensor)| match raw.to_host() {
        Ok(host) => Ok((name.clone(), host)),
        Err(what) => Err(format!("tensor {} {what}", quoted(name))),
    };
    Ok((dialect, views.par_iter().map(load).collect::<Result<_, String>>()?))
}

/// Renames, splits packed projections, and drops what no model here has a use for.
fn places<'a>(tensors: &[(String, RawTensor<'a>)], dialect: Dialect) -> Result<Vec<(String, RawTensor<'a>)>, String> {
    let mut seen = BTreeSet::new();
    let mut views = Vec::with_capacity(tensors.len());
    for (name, raw) in tensors {
        // Batch norm's step counter, an integer.
        if name.ends_with("num_batches_tracked") {
            continue;
        }
        if raw.element() == Element::U32 && dialect != Dialect::Qdetr {
            return Err(format!("tensor {} holds U32 values; want floats (F32, F16, BF16 or F64)", quoted(name)));
        }
        let mut ours = dialect.to_canonical(name);
        if ours.is_empty() {
            ours.extend(Dialect::Qdetr.to_canonical(name));
        }
        for place in ours {
            let view = place.third.map_or_else(|| Ok(raw.clone()), |third| raw.third(third));
            let view = view.map_err(|what| format!("tensor {} {what}", quoted(name)))?;
            if !seen.insert(place.name.clone()) {
                return Err(format!("holds {} twice", quoted(&place.name)));
            }
            views.push((place.name, view));
        }
    }
    Ok(views)
}
