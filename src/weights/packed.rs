//! Files of quantized models: weights as codes at their real width, format 2 of ours.
//!
//! A weight `X.weight` that has step sizes `X.alpha` beside it is stored as a one-dimensional tensor of bytes (U8): its codes in
//! PyTorch's order, packed as [`quant::pack`](crate::quant::pack) says. All other tensors are stored as in format 1, biases, norms
//! and the step sizes themselves above all. Beside the configuration, the metadata has
//!
//! ```text
//! qdetr.packed      {"X.weight": {"shape": [64, 3, 7, 7], "bits": 8}, ...}   shapes in PyTorch's order
//! qdetr.checksum    sixteen hexadecimal digits: FNV-1a of 64 bits
//! ```
//!
//! The checksum is over the texts `qdetr.config` and `qdetr.packed`, then for each tensor, by name, over its name and its bytes; each
//! of these behind its length as a u64, little-endian.
//!
//! **What comes back** is `alpha · code`, in f32. Its codes are the stored ones: both the product and `1 / alpha` are off by at most
//! 2^-24 of themselves, so `alpha · code · (1 / alpha)` is within 2^-22 · 128 of `code`, and rounds to it. So a model
//! computes from a packed file what it computed before, to the bit, and needs no other weights. Only training would miss what they
//! were between the codes: that goes on from checkpoints, which are never packed.

use super::raw::{Element, RawTensor, listed, quoted, torch_bytes, torch_dims};
use crate::graph::Op;
use crate::kernels::quantize::{ALPHA_MAX, ALPHA_MIN, Quantize, QuantizerState};
use crate::models::ModelConfig;
use crate::nn::quantized::ALPHA;
use crate::quant::Quantization;
use crate::quant::pack::{pack, unpack};
use crate::tensor::{DType, Host, Shape, TensorType};
use crate::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Metadata key of what is packed, as JSON.
pub(super) const INDEX_KEY: &str = "qdetr.packed";
/// Metadata key of the checksum.
pub(super) const CHECKSUM_KEY: &str = "qdetr.checksum";

/// What a file says of its packed tensors, by name.
pub(super) type Index = BTreeMap<String, Entry>;

/// A packed tensor's shape in PyTorch's order, and the bits of its codes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    shape: Vec<usize>,
    pub(super) bits: u32,
}

/// The weights of a model that have step sizes, as codes.
///
/// # Errors
/// [`Error::Config`] for a model of floats, or when step sizes and configuration contradict each other; [`Error::NotFinite`].
pub(super) fn codes(config: &ModelConfig, tensors: &BTreeMap<String, Host>) -> Result<BTreeMap<String, (Entry, Vec<u8>)>> {
    let Some(quantization) = &config.quantization else {
        return Err(Error::Config("a model of floats has no codes that could be packed".into()));
    };
    let with_steps = |name: &str| tensors.get(&step_sizes(name)?);
    let weights = tensors.par_iter().filter_map(|(name, weight)| Some((name, weight, with_steps(name)?)));
    let packed: BTreeMap<_, _> =
        weights.map(|(name, weight, alpha)| Ok((name.clone(), codes_of(quantization, name, weight, alpha)?))).collect::<Result<_>>()?;
    if packed.is_empty() {
        return Err(Error::Config(format!("the model is of {quantization}, but no weight has step sizes")));
    }
    Ok(packed)
}

fn codes_of(quantization: &Quantization, name: &str, weight: &Host, alpha: &Host) -> Result<(Entry, Vec<u8>)> {
    let (shape, rows) = (weight.shape(), weight.shape().dims()[0]);
    let Some(bits) = bits_of(quantization, name) else {
        return Err(Error::Config(format!("`{name}` has step sizes, but is of floats in a model of {quantization}")));
    };
    if !weight.dtype().is_float() || alpha.ty() != TensorType::f32([rows]) {
        let (weight, alpha) = (weight.ty(), alpha.ty());
        return Err(Error::Config(format!("`{name}` is {weight} with step sizes {alpha}; want floats and f32[{rows}]")));
    }
    if [weight, alpha].into_iter().any(|host| host.to_f32().iter().any(|x| !x.is_finite())) {
        return Err(Error::NotFinite(format!("`{name}` or its step sizes hold NaN or infinity")));
    }
    let state = QuantizerState { bits, signed: true }.reference(&[alpha], &[TensorType::f32([rows, 4])]).remove(0);
    let quantize = Quantize { bits, signed: true, inner: shape.len() / rows };
    let codes = quantize.reference(&[weight, &state], &[weight.ty().with_dtype(DType::I8)]).remove(0);
    let codes: Vec<i8> = torch_bytes(&codes).into_iter().map(|byte| byte as i8).collect();
    let bytes = pack(&codes, bits).expect("the codes of a quantizer have its bits");
    Ok((Entry { shape: torch_dims(shape), bits }, bytes))
}

/// The name of a weight's step sizes, if it is the name of a weight.
fn step_sizes(weight: &str) -> Option<String> {
    Some(format!("{}.{ALPHA}", weight.strip_suffix(".weight")?))
}

fn bits_of(quantization: &Quantization, weight: &str) -> Option<u32> {
    quantization.layer(weight.strip_suffix(".weight")?).weights
}

/// Takes the packed tensors out of a file's, and gives them back as floats in our layout.
///
/// # Errors
/// In words that follow the file's path: the index, the tensors and the configuration do not agree.
pub(super) fn floats(
    index: &Index,
    config: &ModelConfig,
    tensors: &mut Vec<(String, RawTensor)>,
) -> Result<BTreeMap<String, Host>, String> {
    let Some(quantization) = &config.quantization else {
        return Err("is of packed weights, but its configuration has no `quantization`".into());
    };
    let (packed, whole): (Vec<_>, Vec<_>) = std::mem::take(tensors).into_iter().partition(|(name, _)| index.contains_key(name));
    if let Some(name) = index.keys().find(|name| !packed.iter().any(|(there, _)| there == *name)) {
        return Err(format!("lacks the packed weight {}", quoted(name)));
    }
    let one = |(name, raw): &(String, RawTensor)| {
        let alpha = step_sizes(name).and_then(|alpha| whole.iter().find(|(there, _)| *there == alpha));
        let Some((_, alpha)) = alpha else { return Err(format!("has no step sizes for the packed weight {}", quoted(name))) };
        let host = index[name].floats(raw, alpha, bits_of(quantization, name));
        Ok((name.clone(), host.map_err(|what| format!("packed weight {} {what}", quoted(name)))?))
    };
    let floats = packed.par_iter().map(one).collect::<Result<_, String>>()?;
    *tensors = whole;
    Ok(floats)
}

impl Entry {
    /// `alpha · code`, in words that follow the tensor's name when that cannot be.
    fn floats(&self, packed: &RawTensor, alpha: &RawTensor, configured: Option<u32>) -> Result<Host, String> {
        let Self { shape, bits } = self;
        if configured != Some(*bits) {
            let wanted = configured.map_or("floats".into(), |bits| format!("{bits} bits"));
            return Err(format!("is of {bits} bits, the configuration says {wanted}"));
        }
        let Some(checked) = Shape::checked(shape) else { return Err(format!("has shape {}; want 1 to 4 dimensions", listed(shape))) };
        if !matches!(packed.element(), Element::Other { name: "U8", .. }) {
            return Err("is not stored as bytes (U8)".into());
        }
        let codes = unpack(packed.storage(), checked.len(), *bits).map_err(|e| format!("of shape {}: {e}", listed(shape)))?;
        let alpha = alpha.to_host().map_err(|what| format!("has step sizes whose tensor {what}"))?;
        if alpha.ty() != TensorType::f32([shape[0]]) {
            return Err(format!("has step sizes {}; want f32[{}]", alpha.ty(), shape[0]));
        }
        let alpha = alpha.to_f32();
        let rows = codes.chunks(codes.len() / shape[0]).zip(alpha.iter());
        let bytes: Vec<u8> = rows.flat_map(|(row, &alpha)| row.iter().flat_map(move |&code| value(alpha, code).to_le_bytes())).collect();
        RawTensor::contiguous(&bytes, Element::F32, shape.clone())?.to_host()
    }
}

/// What a code stands for, with the limits of step sizes.
fn value(alpha: f32, code: i8) -> f32 {
    alpha.clamp(ALPHA_MIN, ALPHA_MAX) * f32::from(code)
}

/// The checksum as the metadata has it; tensors by name.
pub(super) fn checksum<'a>(config: &str, index: &str, tensors: impl IntoIterator<Item = (&'a str, impl AsRef<[u8]>)>) -> String {
    let mut sum = Fnv::new();
    sum.field(config.as_bytes());
    sum.field(index.as_bytes());
    for (name, bytes) in tensors {
        sum.field(name.as_bytes());
        sum.field(bytes.as_ref());
    }
    sum.hex()
}

/// FNV-1a: every step is one to one, so that no change of a single byte goes unseen.
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    }

    /// Adds bytes and where they end.
    pub(crate) fn field(&mut self, bytes: &[u8]) {
        self.add(&(bytes.len() as u64).to_le_bytes());
        self.add(bytes);
    }

    /// The sum as text.
    pub(crate) fn hex(&self) -> String {
        format!("{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::check::noise;
    use crate::weights::{Checkpoint, load, save, save_packed};
    use ::safetensors::SafeTensors;
    use serde_json::{Value, json};
    use std::path::Path;

    #[test]
    fn fnv_has_its_published_values() {
        for (text, sum) in [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)] {
            let mut fnv = Fnv::new();
            fnv.add(text.as_bytes());
            assert_eq!(fnv.0, sum, "{text}");
        }
    }

    /// Step sizes within the limits, on them and beyond, of every mantissa's kind.
    fn alphas() -> Vec<f32> {
        let odd = [ALPHA_MIN, ALPHA_MAX, 0.0, -1.0, 1e-30, 3e38, 1.0, 1.0f32.next_up(), 1.0f32.next_down(), 2.0f32.next_down(), 0.1];
        let random =
            noise([4000], 7).to_f32().iter().enumerate().map(|(i, v)| (1.5 + v / 2.0) * (i as f32 % 120.0 - 26.0).exp2()).collect();
        [odd.to_vec(), random].concat()
    }

    #[test]
    fn every_code_of_every_step_size_comes_back() {
        for alpha in alphas() {
            let reciprocal = 1.0 / alpha.clamp(ALPHA_MIN, ALPHA_MAX);
            for code in i8::MIN..=i8::MAX {
                assert_eq!((value(alpha, code) * reciprocal).round_ties_even(), f32::from(code), "{alpha:e}");
            }
        }
    }

    fn config(bits: &str) -> ModelConfig {
        let quantization = Quantization::new(bits.parse().unwrap());
        ModelConfig { quantization: Some(quantization), ..ModelConfig::detr("resnet18").unwrap() }
    }

    const CONV: &str = "backbone.0.body.layer1.0.conv1.weight";
    const LINEAR: &str = "transformer.encoder.layers.0.linear1.weight";
    const HEAD: &str = "class_embed.weight";

    /// A convolution and a linear layer of few bits, a head of eight, and what is never packed.
    fn tensors() -> BTreeMap<String, Host> {
        let of = |name: &str, shape: &[usize], seed| (name.to_owned(), noise(shape, seed));
        let steps = |name: &str, n: usize, seed| {
            let alpha = noise([n], seed).to_f32().iter().map(|v| 0.2 + 0.1 * v).collect();
            (step_sizes(name).unwrap(), Host::f32([n], alpha))
        };
        BTreeMap::from([
            of(CONV, &[3, 3, 3, 5], 1),
            steps(CONV, 3, 2),
            of(LINEAR, &[7, 6], 3),
            steps(LINEAR, 7, 4),
            of(HEAD, &[5, 3], 5),
            steps(HEAD, 5, 6),
            of("class_embed.bias", &[5], 7),
            of("query_embed.weight", &[4, 6], 8),
            ("transformer.decoder.norm.weight".to_owned(), noise([6], 9).cast(DType::F16)),
        ])
    }

    fn codes_now(config: &ModelConfig, tensors: &BTreeMap<String, Host>) -> BTreeMap<String, (Entry, Vec<u8>)> {
        codes(config, tensors).unwrap()
    }

    fn saved(bits: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("packed.safetensors");
        save_packed(&path, &config(bits), &tensors(), &BTreeMap::from([("note".to_owned(), "x".to_owned())])).unwrap();
        (folder, path)
    }

    #[test]
    fn a_packed_file_gives_the_same_codes_and_all_else_to_the_bit() {
        for bits in ["2-4-8", "3-3-8", "4-4-8", "5-8-8", "8-8-8"] {
            let (folder, path) = saved(bits);
            let found = load(&path).unwrap();
            assert_eq!(found.config, Some(config(bits)));
            assert_eq!(found.metadata, BTreeMap::from([("note".to_owned(), "x".to_owned())]));
            let few: u32 = bits[..1].parse().unwrap();
            assert_eq!(found.packed, BTreeMap::from([(CONV.to_owned(), few), (LINEAR.to_owned(), few), (HEAD.to_owned(), 8)]));
            for (name, tensor) in tensors() {
                assert_eq!(found.tensors[&name].shape(), tensor.shape());
                assert!(found.packed.contains_key(&name) || found.tensors[&name] == tensor, "{name}");
            }
            assert_eq!(codes_now(&config(bits), &found.tensors), codes_now(&config(bits), &tensors()));
            let again = folder.path().join("again.safetensors");
            save_packed(&again, &config(bits), &found.tensors, &found.metadata).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap());
            let held = SafeTensors::deserialize(&std::fs::read(&path).unwrap()).unwrap().tensor(CONV).unwrap().data().len();
            assert_eq!(held, (135 * few as usize).div_ceil(8));
        }
    }

    #[test]
    fn a_packed_file_saved_as_floats_is_an_ordinary_checkpoint() {
        let (folder, path) = saved("4-4-8");
        let Checkpoint { config, tensors, metadata, .. } = load(&path).unwrap();
        let floats = folder.path().join("floats.safetensors");
        save(&floats, config.as_ref(), &tensors, &metadata).unwrap();
        let back = load(&floats).unwrap();
        assert_eq!((back.tensors, back.packed.len()), (tensors, 0));
    }

    /// The file with another header and other data, its checksum made anew unless it is to be wrong.
    fn forged(path: &Path, change: impl FnOnce(&mut Value, &mut Vec<u8>), sum_again: bool) -> String {
        let bytes = std::fs::read(path).unwrap();
        let (length, _) = SafeTensors::read_metadata(&bytes).unwrap();
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let mut data = bytes[8 + length..].to_vec();
        change(&mut header, &mut data);
        if sum_again {
            let text = |key: &str| header["__metadata__"][key].as_str().unwrap_or_default().to_owned();
            let all: BTreeMap<_, _> = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__").collect();
            let bytes = |info: &Value| {
                let [from, to] = [0, 1].map(|i| info["data_offsets"][i].as_u64().unwrap() as usize);
                data[from.min(data.len())..to.min(data.len())].to_vec()
            };
            let tensors = all.into_iter().map(|(name, info)| (name.as_str(), bytes(info)));
            let sum = checksum(&text("qdetr.config"), &text(INDEX_KEY), tensors);
            header["__metadata__"][CHECKSUM_KEY] = json!(sum);
        }
        let header = header.to_string();
        std::fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()).unwrap();
        let error = load(path).expect_err("this file should be refused");
        assert!(matches!(error, Error::Format { .. }), "{error:?}");
        error.to_string()
    }

    /// Changes the index of packed tensors.
    fn index(header: &mut Value, change: impl FnOnce(&mut Value)) {
        let mut index: Value = serde_json::from_str(header["__metadata__"][INDEX_KEY].as_str().unwrap()).unwrap();
        change(&mut index);
        header["__metadata__"][INDEX_KEY] = json!(index.to_string());
    }

    #[track_caller]
    fn refused(words: &[&str], change: impl FnOnce(&mut Value, &mut Vec<u8>)) {
        let text = forged(&saved("4-4-8").1, change, true);
        assert!(words.iter().all(|word| text.contains(word)) && !text.contains('\n'), "{text}");
    }

    #[test]
    fn what_does_not_agree_is_refused() {
        let of_config = |header: &mut Value, from: &str, to: &str| {
            let config = header["__metadata__"]["qdetr.config"].as_str().unwrap().replace(from, to);
            header["__metadata__"]["qdetr.config"] = json!(config);
        };
        refused(&[CONV, "is of 4 bits", "says 3 bits"], |header, _| of_config(header, "4-4-8", "3-4-8"));
        refused(&[CONV, "is of 5 bits", "says 4 bits"], |header, _| index(header, |index| index[CONV]["bits"] = json!(5)));
        refused(&[HEAD, "is of 8 bits", "says floats"], |header, _| of_config(header, "compact", "release"));
        refused(&[CONV, "272 codes"], |header, _| index(header, |index| index[CONV]["shape"] = json!([2, 136])));
        refused(&[LINEAR, "step sizes f32[7]; want f32[6]"], |header, _| index(header, |index| index[LINEAR]["shape"] = json!([6, 7])));
        refused(&[CONV, "shape"], |header, _| index(header, |index| index[CONV]["shape"] = json!([1u64 << 63, 3])));
        refused(&[CONV, "shape []"], |header, _| index(header, |index| index[CONV]["shape"] = json!([])));
        refused(&["lacks", "`none.weight`"], |header, _| index(header, |index| index["none.weight"] = json!({ "shape": [1], "bits": 4 })));
        refused(&[LINEAR, "U8"], |header, _| index(header, |index| drop(index.as_object_mut().unwrap().remove(LINEAR))));
        refused(&[INDEX_KEY], |header, _| index(header, |index| index[CONV]["bits"] = json!(-4)));
        refused(&[INDEX_KEY], |header, _| drop(header["__metadata__"].as_object_mut().unwrap().remove(INDEX_KEY)));
        refused(&["qdetr.config"], |header, _| drop(header["__metadata__"].as_object_mut().unwrap().remove("qdetr.config")));
        refused(&[HEAD, "no step sizes"], |header, _| {
            let alpha = header.as_object_mut().unwrap().remove("class_embed.alpha").unwrap();
            header["renamed.alpha"] = alpha;
        });
        // Behind 21 bytes of the linear layer: half a byte more than 135 codes of 4 bits need.
        refused(&[CONV, "bits behind the last code"], |header, data| {
            let end = header[CONV]["data_offsets"][1].as_u64().unwrap() as usize;
            data[end - 1] |= 0xf0;
        });
    }

    #[test]
    fn damage_and_other_formats_are_refused() {
        let (_folder, path) = saved("4-4-8");
        let whole = std::fs::read(&path).unwrap();
        let text = forged(&path, |_, data| *data.last_mut().unwrap() ^= 1, false);
        assert!(text.contains("damaged") && text.contains("checksum"), "{text}");
        std::fs::write(&path, &whole).unwrap();
        let text = forged(&path, |header, _| drop(header["__metadata__"].as_object_mut().unwrap().remove(CHECKSUM_KEY)), false);
        assert!(text.contains(CHECKSUM_KEY), "{text}");
        for (format, word) in [("3", "update qdetr"), ("0", "no format"), ("two", "no format")] {
            std::fs::write(&path, &whole).unwrap();
            let text = forged(&path, |header, _| header["__metadata__"]["qdetr.format"] = json!(format), true);
            assert!(text.contains(word), "{text}");
        }
        for length in (0..whole.len()).step_by(37) {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(matches!(load(&path), Err(Error::Format { .. })), "{length}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            let data = whole.len() - at <= 200;
            assert!(load(&path).is_err() || !data, "a changed byte of data at {at} goes unseen");
        }
    }

    #[test]
    fn what_has_no_codes_is_not_packed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let refuse = |config: &ModelConfig, tensors: &BTreeMap<String, Host>, word: &str| {
            let error = save_packed(&path, config, tensors, &BTreeMap::new()).unwrap_err();
            assert!(error.to_string().contains(word) && !path.exists(), "{error}");
            error
        };
        refuse(&ModelConfig::detr("resnet18").unwrap(), &tensors(), "of floats");
        let mut plain = tensors();
        plain.retain(|name, _| !name.ends_with(".alpha"));
        refuse(&config("4-4-8"), &plain, "no weight has step sizes");
        let mut wrong = tensors();
        wrong.insert("class_embed.alpha".into(), Host::f32([4], vec![1.0; 4]));
        refuse(&config("4-4-8"), &wrong, "want floats and f32[5]");
        let bad = Host::f32([5], vec![f32::NAN; 5]);
        wrong.insert("class_embed.alpha".into(), bad);
        assert!(matches!(refuse(&config("4-4-8"), &wrong, HEAD), Error::NotFinite(_)));
    }
}
