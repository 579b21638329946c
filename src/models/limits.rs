//! What fits, worked out before anything is built: sizes that no device or no index can hold are refused with what would fit.

use super::BatchSize;
use super::config::{Backbone, ModelConfig};
use crate::nn::Precision;
use crate::{Error, Result};

/// No shader can index more elements of one tensor.
const INDEXABLE: u64 = 1 << 32;

/// Refuses a size whose largest tensor does not fit one buffer of the device.
///
/// # Errors
/// [`Error::OutOfMemory`] with the bytes that are needed and there, and what would fit.
pub(super) fn check(config: &ModelConfig, size: BatchSize, precision: Precision, device: &wgpu::Limits) -> Result<()> {
    let room = device.max_storage_buffer_binding_size.min(device.max_buffer_size).min(4 * (INDEXABLE - 1));
    let needed = largest_tensor(config, size, precision);
    if needed <= u128::from(room) {
        return Ok(());
    }
    let what_fits = what_fits(config, size, precision, u128::from(room));
    let batch = format!("a batch of {size} (images × height × width)");
    Err(Error::OutOfMemory(format!("{batch} needs a tensor of {needed} bytes; this device holds {room} in one buffer; {what_fits}")))
}

fn what_fits(config: &ModelConfig, size: BatchSize, precision: Precision, room: u128) -> String {
    let fits = |size: BatchSize| largest_tensor(config, size, precision) <= room;
    let fewer = |images: usize| BatchSize { images, ..size };
    let mut images = size.images;
    while images > 1 && !fits(fewer(images)) {
        images /= 2;
    }
    if fits(fewer(images)) {
        return format!("{} would fit", fewer(images));
    }
    let smaller = |percent: usize| BatchSize { images: 1, height: size.height * percent / 100, width: size.width * percent / 100 };
    let found = (1..100).rev().map(smaller).find(|&s| s.height > 0 && s.width > 0 && fits(s));
    found.map_or_else(|| "no smaller image would fit either".to_owned(), |s| format!("{s} would fit"))
}

/// Bytes of the largest tensor that a forward makes, inputs included.
fn largest_tensor(config: &ModelConfig, size: BatchSize, precision: Precision) -> u128 {
    let images = size.images as u128;
    let pixels = |stride: usize| images * size.height.div_ceil(stride) as u128 * size.width.div_ceil(stride) as u128;
    let maps = match config.backbone {
        Backbone::Resnet(r) => {
            let last = if r.dilated_c5 { 16 } else { 32 };
            let stages = [4, 8, 16, last].into_iter().zip(r.widths).map(|(stride, width)| pixels(stride) * width as u128);
            stages.chain([pixels(2) * r.stem as u128]).max().unwrap_or(0)
        }
        // The expansion of the first strided block.
        Backbone::MobilenetV2(_) => pixels(2) * 96,
    };
    let (width, ffn, classes) = (config.d_model as u128, config.ffn as u128, config.classes as u128);
    let tokens = pixels(config.backbone.stride()) * width.max(ffn);
    let queries = images * config.queries as u128 * width.max(ffn);
    let activations = maps.max(tokens).max(queries) * precision.dtype().size() as u128;
    let logits = images * config.queries as u128 * (classes + 1);
    // SMCA-DETR's points, always f32.
    let points = images * (config.queries * 2 * config.heads) as u128;
    activations.max(4 * logits).max(4 * points).max(12 * pixels(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Entry;
    use crate::models::{Results, detr};

    fn size(images: usize, height: usize, width: usize) -> BatchSize {
        BatchSize { images, height, width }
    }

    #[test]
    fn the_largest_tensor_is_that_of_the_graph() {
        for (backbone, h, w) in [("resnet50", 97, 131), ("resnet18", 64, 33), ("resnet101-dc5", 50, 70), ("mobilenet_v2", 97, 45)] {
            for precision in [Precision::F32, Precision::F16] {
                let model = if h % 2 == 0 { ModelConfig::detr(backbone) } else { ModelConfig::smca(backbone) };
                let config = ModelConfig { ffn: 64, ..model.unwrap() };
                let graph = detr(&config, (size(2, h, w), Entry::Floats), precision, Results::Answers);
                let made = |v: &crate::graph::Value| !matches!(v.origin, crate::graph::Origin::Param(_));
                let activations = graph.values().iter().filter(|v| made(v));
                // Weights cast to f16 are nodes too, but made of parameters.
                let largest = activations.filter(|v| v.ty.shape.dims()[0] == 2).map(|v| v.ty.bytes() as u128).max();
                assert_eq!(largest, Some(largest_tensor(&config, size(2, h, w), precision)), "{backbone} {precision:?}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let config = ModelConfig::detr("resnet50").unwrap();
        let device = wgpu::Limits { max_storage_buffer_binding_size: 128 << 20, ..wgpu::Limits::default() };
        let check = |size| check(&config, size, Precision::F32, &device);
        assert!(check(size(1, 800, 1066)).is_ok());
        let batch = check(size(8, 800, 1066)).unwrap_err().to_string();
        assert!(batch.contains("2 × 800 × 1066") && batch.contains("would fit"), "{batch}");
        let image = check(size(1, 8000, 10660)).unwrap_err().to_string();
        assert!(image.contains("1 × 1200 × 1599 would fit"), "{image}");
        assert!(check(size(usize::MAX >> 32, usize::MAX >> 32, usize::MAX >> 32)).is_err());
    }
}
