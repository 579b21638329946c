//! Models and inputs made of hashed numbers, as `tests/golden/hashed.py` makes them, and the goldens that PyTorch wrote of them.

use qdetr::graph::Values;
use qdetr::models::{BatchSize, ModelConfig};
use qdetr::nn::ParamSpec;
use qdetr::rng::{HashedUniform, hashed_weight};
use qdetr::tensor::Host;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// `[out, in, kh, kw]` to `[out, kh, kw, in]`, and `[B, C, H, W]` to `[B, H, W, C]`.
pub(crate) fn channels_last([n, c, h, w]: [usize; 4], values: &[f32]) -> Host {
    let mut to = Vec::with_capacity(values.len());
    for image in values.chunks(c * h * w) {
        for pixel in 0..h * w {
            to.extend((0..c).map(|channel| image[channel * h * w + pixel]));
        }
    }
    Host::f32([n, h, w, c], to)
}

/// Hashed values for everything a model wants.
pub(crate) fn params(specs: &BTreeMap<String, ParamSpec>) -> Values {
    specs.iter().map(|(name, spec)| (name.clone(), param(name, spec.shape.dims()))).collect()
}

fn param(name: &str, shape: &[usize]) -> Host {
    for (third, part) in ["q_proj.", "k_proj.", "v_proj."].into_iter().enumerate() {
        if let Some((block, kind)) = name.split_once(part) {
            let mut packed = shape.to_vec();
            packed[0] *= 3;
            let all = hashed_weight(&format!("{block}in_proj_{kind}"), &packed);
            let n = all.len() / 3;
            return Host::f32(shape, all[third * n..(third + 1) * n].to_vec());
        }
    }
    match *shape {
        [n, kh, kw, c] => channels_last([n, c, kh, kw], &hashed_weight(name, &[n, c, kh, kw])),
        _ => Host::f32(shape, hashed_weight(name, shape)),
    }
}

/// The image batch `hashed_pixels(images, height, width)`, and a mask of ones.
pub(crate) fn inputs(BatchSize { images, height, width }: BatchSize) -> Values {
    let (numbers, count) = (HashedUniform::new("pixel_values"), (images * 3 * height * width) as u32);
    let pixels: Vec<f32> = (0..count).map(|i| 2.0 * numbers.at(i)).collect();
    let mask = Host::u32([images, height, width], vec![1; images * height * width]);
    Values::from([("pixel_values".into(), channels_last([images, 3, height, width], &pixels)), ("pixel_mask".into(), mask)])
}

/// A golden: the model, what goes in, and what PyTorch answers, all in this crate's layout and under its names.
pub(crate) struct Golden {
    pub(crate) config: ModelConfig,
    pub(crate) size: BatchSize,
    pub(crate) inputs: Values,
    pub(crate) answers: Values,
}

/// Where the goldens lie.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/golden/models")
}

/// Reads a golden file. One without inputs is of the hashed image.
pub(crate) fn golden(file: &str) -> Golden {
    let bytes = std::fs::read(folder().join(file)).expect("the golden is in assets");
    let (_, metadata) = SafeTensors::read_metadata(&bytes).expect("a safetensors file");
    let config = serde_json::from_str(&metadata.metadata().as_ref().expect("metadata")["config"]).expect("a configuration");
    let mut all = tensors(&bytes);
    let given = all.remove("pixel_values");
    let [images, height, width, _] = given.as_ref().map_or([1, 97, 131, 3], |pixels| pixels.shape().bhwc());
    let size = BatchSize { images, height, width };
    let mut inputs = inputs(size);
    inputs.extend(given.map(|pixels| ("pixel_values".to_owned(), pixels)));
    inputs.extend(all.remove("pixel_mask").map(|mask| ("pixel_mask".to_owned(), mask)));
    Golden { config, size, inputs, answers: all }
}

/// All tensors of a golden file.
pub(crate) fn tensors(bytes: &[u8]) -> Values {
    let tensors = SafeTensors::deserialize(bytes).expect("a safetensors file");
    tensors.iter().flat_map(|(name, view)| read(name, &view)).collect()
}

/// One tensor of a golden file; `decoder_hidden` becomes one tensor a layer.
fn read(name: &str, view: &safetensors::tensor::TensorView<'_>) -> Vec<(String, Host)> {
    let shape = view.shape().to_vec();
    if view.dtype() == Dtype::I64 {
        let mask = view.data().chunks(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")) as u32).collect();
        return vec![(name.to_owned(), Host::u32(shape, mask))];
    }
    let values: Vec<f32> = view.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect();
    match (name, &shape[..]) {
        ("pixel_values" | "feature_map", &[n, c, h, w]) => vec![(name.to_owned(), channels_last([n, c, h, w], &values))],
        ("decoder_hidden", [_, layer @ ..]) => {
            let layers = values.chunks(layer.iter().product());
            layers.enumerate().map(|(i, v)| (format!("{name}.{i}"), Host::f32(layer, v.to_vec()))).collect()
        }
        _ => vec![(name.to_owned(), Host::f32(shape, values))],
    }
}
