//! PyTorch's `.pth` files: a zip of `data.pkl` and one file a storage, or, before version 1.6, five pickles in a row and the
//! storages behind them.

use super::contents::{Contents, Hints};
use super::pickle::{Pickle, Storage, Tensor, Value};
use super::raw::{Element, RawTensor, quoted};
use std::collections::HashMap;
use std::io::Cursor;
use zip::{CompressionMethod, ZipArchive};

/// First pickle of the older form.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
/// Second pickle of the older form.
const PROTOCOL: i128 = 1001;

/// Storages by their key.
type Storages<'a> = HashMap<String, &'a [u8]>;

/// Reads the zip form.
///
/// # Errors
/// When the archive or its pickle is damaged, compressed, or no state dict.
pub(super) fn read_zip(bytes: &[u8]) -> Result<Contents<'_>, String> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|e| format!("is a damaged or truncated zip archive: {e}"))?;
    let pickle = (0..archive.len()).find_map(|i| {
        let name = archive.by_index_data(i).ok()?.name().ok()?.into_owned();
        name.strip_suffix("data.pkl").filter(|root| root.is_empty() || root.ends_with('/')).map(str::to_owned)
    });
    let Some(root) = pickle else {
        return Err("is a zip archive without `data.pkl`: not a PyTorch checkpoint".into());
    };
    if let Some(order) = entry(&mut archive, bytes, &format!("{root}byteorder"))?
        && order.trim_ascii() != b"little"
    {
        return Err("was written on a big-endian machine; save it again on a little-endian one".into());
    }
    let data = entry(&mut archive, bytes, &format!("{root}data.pkl"))?.ok_or("has lost its `data.pkl`")?;
    let pickle = Pickle::read(data, 0)?;
    let mut storages = Storages::new();
    for storage in pickle.values().iter().filter_map(storage) {
        if !storages.contains_key(storage.key) {
            let name = format!("{root}data/{}", storage.key);
            let bytes = entry(&mut archive, bytes, &name)?.ok_or_else(|| format!("has no storage {}: truncated?", quoted(&name)))?;
            storages.insert(storage.key.to_owned(), bytes);
        }
    }
    contents(&pickle, &storages)
}

/// The bytes of a file in the archive, where they lie.
fn entry<'a>(archive: &mut ZipArchive<Cursor<&'a [u8]>>, bytes: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, String> {
    let Some(index) = archive.index_for_name_raw(name.as_bytes()) else { return Ok(None) };
    let damaged = |what: &str| format!("has a damaged zip entry {}: {what}", quoted(name));
    let file = archive.by_index_raw(index).map_err(|e| damaged(&e.to_string()))?;
    if file.compression() != CompressionMethod::Stored || file.encrypted() || file.size() != file.compressed_size() {
        return Err(damaged("it is compressed or encrypted, which PyTorch never does"));
    }
    let start = file.data_start().and_then(|start| usize::try_from(start).ok());
    let size = usize::try_from(file.size()).ok();
    let inside = start.zip(size).and_then(|(start, size)| bytes.get(start..start.checked_add(size)?));
    inside.map(Some).ok_or_else(|| damaged("it reaches beyond the end of the file"))
}

/// Reads the older form.
///
/// # Errors
/// When a pickle is damaged or no state dict, or the storages are truncated.
pub(super) fn read_legacy(bytes: &[u8]) -> Result<Contents<'_>, String> {
    let magic = Pickle::read(bytes, 0)?;
    if !matches!(magic.root(), Value::Int(MAGIC)) {
        return Err("is a pickle, but not a PyTorch checkpoint".into());
    }
    let protocol = Pickle::read(bytes, magic.end)?;
    if !matches!(protocol.root(), Value::Int(PROTOCOL)) {
        return Err(format!("is a PyTorch checkpoint of an unknown protocol; want {PROTOCOL}"));
    }
    let system = Pickle::read(bytes, protocol.end)?;
    if matches!(system.item(system.root(), "little_endian"), Some(Value::Bool(false))) {
        return Err("was written on a big-endian machine; save it again on a little-endian one".into());
    }
    let pickle = Pickle::read(bytes, system.end)?;
    let keys = Pickle::read(bytes, pickle.end)?;
    let storages = legacy_storages(bytes, &pickle, &keys)?;
    contents(&pickle, &storages)
}

/// Behind the pickles lie, for each key in order, an element count of eight bytes and the elements.
fn legacy_storages<'a>(bytes: &'a [u8], pickle: &Pickle, keys: &Pickle) -> Result<Storages<'a>, String> {
    let mut elements: HashMap<&str, (Element, usize)> = HashMap::new();
    for storage in pickle.values().iter().filter_map(storage) {
        let known = *elements.entry(storage.key).or_insert((storage.element, storage.count));
        if known != (storage.element, storage.count) {
            return Err(format!("describes storage {} twice and differently", quoted(storage.key)));
        }
    }
    let Value::List(list) = keys.root() else { return Err("has no list of storages behind its tensors".into()) };
    let mut storages = Storages::new();
    let mut rest = &bytes[keys.end..];
    for &key in list {
        let Value::Str(key) = *keys.get(key) else { return Err("has a storage whose key is no text".into()) };
        let &(element, count) = elements.get(key).ok_or_else(|| format!("has a storage {} of no tensor", quoted(key)))?;
        let Some((announced, data)) = rest.split_first_chunk::<8>() else {
            return Err(format!("is truncated before storage {}", quoted(key)));
        };
        if u64::from_le_bytes(*announced) != count as u64 {
            return Err(format!(
                "announces {} elements for storage {}, its tensors expect {count}",
                u64::from_le_bytes(*announced),
                quoted(key)
            ));
        }
        let size = count.checked_mul(element.size());
        let Some((data, after)) = size.and_then(|size| data.split_at_checked(size)) else {
            return Err(format!("is truncated: storage {} needs {count} elements, {} bytes are left", quoted(key), data.len()));
        };
        if storages.insert(key.to_owned(), data).is_some() {
            return Err(format!("holds storage {} twice", quoted(key)));
        }
        rest = after;
    }
    Ok(storages)
}

fn storage<'a, 'p>(value: &'p Value<'a>) -> Option<&'p Storage<'a>> {
    match value {
        Value::Storage(storage) => Some(storage),
        _ => None,
    }
}

/// The tensors of `{"model": …}` or of a bare state dict.
fn contents<'a>(pickle: &Pickle<'_>, storages: &Storages<'a>) -> Result<Contents<'a>, String> {
    let root = pickle.root();
    let model = pickle.item(root, "model").filter(|model| matches!(model, Value::Dict(_)));
    let Value::Dict(items) = model.unwrap_or(root) else {
        return Err("holds no state dict: want {\"model\": {name: tensor, …}} or the inner dictionary alone".into());
    };
    let mut tensors = Vec::with_capacity(items.len());
    for &(name, value) in items {
        let Value::Str(name) = *pickle.get(name) else { return Err("has a parameter whose name is no text".into()) };
        let Value::Tensor(tensor) = pickle.get(value) else {
            return Err(format!("is no state dict: {} is not a tensor", quoted(name)));
        };
        let raw = view(pickle, storages, tensor).map_err(|what| format!("tensor {} {what}", quoted(name)))?;
        tensors.push((name.to_owned(), raw));
    }
    Ok(Contents { tensors, metadata: Default::default(), hints: hints(pickle)? })
}

fn view<'a>(pickle: &Pickle<'_>, storages: &Storages<'a>, tensor: &Tensor) -> Result<RawTensor<'a>, String> {
    let Value::Storage(Storage { key, element, count, start }) = *pickle.get(tensor.storage) else {
        return Err("has no storage".into());
    };
    let bytes = *storages.get(key).ok_or("has a storage that is not in the file")?;
    let bytes = count.checked_mul(element.size()).and_then(|size| bytes.get(..size));
    let bytes = bytes.ok_or_else(|| format!("has a storage of {count} elements, which is not that long in the file"))?;
    let offset = start.checked_add(tensor.offset).ok_or("begins beyond its storage")?;
    RawTensor::strided(bytes, element, offset, tensor.dims.clone(), tensor.strides.clone())
}

/// What a training run's arguments tell and shapes cannot.
fn hints(pickle: &Pickle) -> Result<Hints, String> {
    let arguments = match pickle.item(pickle.root(), "args") {
        Some(Value::Namespace(Some(attributes))) => pickle.get(*attributes),
        _ => return Ok(Hints::default()),
    };
    if matches!(pickle.item(arguments, "pre_norm"), Some(Value::Bool(true))) {
        return Err("was trained with `--pre_norm`; only post-norm DETR is supported".into());
    }
    let heads = match pickle.item(arguments, "nheads") {
        Some(&Value::Int(n)) => usize::try_from(n).ok(),
        _ => None,
    };
    let dilated_c5 = match pickle.item(arguments, "dilation") {
        Some(&Value::Bool(dilated)) => Some(dilated),
        _ => None,
    };
    Ok(Hints { heads, dilated_c5 })
}
