//! Reading safetensors: the library checks offsets, sizes and coverage; here its verdict becomes a sentence, and a name that
//! stands there twice is refused.

use super::contents::Contents;
use super::raw::{Element, RawTensor, listed, quoted};
use ::safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use std::collections::HashSet;
use std::fmt;

/// Reads a safetensors file.
///
/// # Errors
/// When header and file do not agree.
pub(super) fn read(bytes: &[u8]) -> Result<Contents<'_>, String> {
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| explain(&e, bytes))?;
    let file = SafeTensors::deserialize(bytes).map_err(|e| explain(&e, bytes))?;
    serde_json::from_slice::<DistinctNames>(&bytes[8..8 + header]).map_err(|e| format!("has a bad header: {e}"))?;
    let mut tensors = Vec::with_capacity(file.len());
    for (name, tensor) in file.iter() {
        let raw = element(tensor.dtype()).and_then(|e| RawTensor::contiguous(tensor.data(), e, tensor.shape().to_vec()));
        let raw = raw.map_err(|what| format!("tensor {} of shape {} {what}", quoted(name), listed(tensor.shape())))?;
        tensors.push((name.to_owned(), raw));
    }
    // The library keeps names in a map of random order; messages shall not depend on it.
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let metadata = metadata.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    Ok(Contents { tensors, metadata, ..Default::default() })
}

fn explain(error: &SafeTensorError, bytes: &[u8]) -> String {
    let length = bytes.len();
    match error {
        SafeTensorError::HeaderTooSmall => format!("is truncated: {length} bytes are less than a safetensors header"),
        SafeTensorError::InvalidHeaderLength | SafeTensorError::HeaderTooLarge => {
            let announced = bytes.first_chunk::<8>().map_or(0, |n| u64::from_le_bytes(*n));
            format!("is truncated or no safetensors file: it announces a header of {announced} bytes, the file has {length} in all")
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            format!("is truncated or damaged: the tensors of its header do not end where the file does, at {length} bytes")
        }
        SafeTensorError::InvalidOffset(name) => format!("is damaged: tensor {} overlaps another or leaves a gap", quoted(name)),
        SafeTensorError::TensorInvalidInfo => "is damaged: a tensor's offsets do not match its shape and type".into(),
        SafeTensorError::ValidationOverflow => "is damaged: a tensor's shape overflows".into(),
        other => format!("has a bad header: {}", quoted(&other.to_string())),
    }
}

fn element(dtype: Dtype) -> Result<Element, String> {
    let other = |name, size| Ok(Element::Other { name, size });
    match dtype {
        Dtype::F64 => Ok(Element::F64),
        Dtype::F32 => Ok(Element::F32),
        Dtype::F16 => Ok(Element::F16),
        Dtype::BF16 => Ok(Element::Bf16),
        Dtype::U32 => Ok(Element::U32),
        Dtype::I64 => other("I64", 8),
        Dtype::U64 => other("U64", 8),
        Dtype::I32 => other("I32", 4),
        Dtype::I16 => other("I16", 2),
        Dtype::U16 => other("U16", 2),
        Dtype::I8 => other("I8", 1),
        Dtype::U8 => other("U8", 1),
        Dtype::BOOL => other("BOOL", 1),
        exotic => Err(format!("has the element type {exotic}; want floats (F32, F16, BF16 or F64)")),
    }
}

/// A JSON object none of whose keys stands there twice.
struct DistinctNames;

impl<'de> Deserialize<'de> for DistinctNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self)
    }
}

impl<'de> Visitor<'de> for DistinctNames {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            map.next_value::<IgnoredAny>()?;
            if seen.contains(&name) {
                return Err(A::Error::custom(format!("tensor {} stands there twice", quoted(&name))));
            }
            seen.insert(name);
        }
        Ok(self)
    }
}
