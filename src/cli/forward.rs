//! `qdetr forward`: the network alone, tensors in and tensors out, so that anybody can compare it with PyTorch.

use super::DeviceArgs;
use super::model::ModelArgs;
use clap::Args;
use half::f16;
use qdetr::models::Results;
use qdetr::tensor::{Host, Shape};
use qdetr::{Error, Result, weights};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `qdetr forward`.
#[derive(Args)]
pub(crate) struct Forward {
    #[command(flatten)]
    model: ModelArgs,
    /// A safetensors file with `pixel_values` f32 [B, 3, H, W], normalized, and optionally `pixel_mask` [B, H, W], 1 = valid
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where to write `logits` [B, N, K + 1] and `pred_boxes` [B, N, 4] (cx, cy, w, h), as safetensors
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Also write `feature_map` [B, C, h, w], `encoder_memory` [B, h·w, C], and `decoder_hidden.i`, `aux_logits.i`, `aux_boxes.i` of
    /// each decoder layer
    #[arg(long)]
    hidden: bool,
}

impl Forward {
    pub(crate) fn run(&self, device: &DeviceArgs) -> Result<ExitCode> {
        let bytes = std::fs::read(&self.input).map_err(Error::io(&self.input))?;
        let (pixels, mask) = read(&bytes).map_err(|what| Error::format(&self.input, what))?;
        let model = self.model.load()?;
        let results = if self.hidden { Results::Everything } else { Results::Answers };
        let gpu = device.open_for(model.precision, model.config.quantization.is_some())?;
        let mut detector = model.detector(&gpu, results)?;
        let answers = detector.run(&pixels, &mask)?;
        weights::save(&self.output, None, &answers, &BTreeMap::new())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Pixels `[B, H, W, 3]` and mask `[B, H, W]` from a safetensors file.
///
/// # Errors
/// In words that follow the file's path.
fn read(bytes: &[u8]) -> Result<(Host, Host), String> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| format!("is no safetensors file: {e}"))?;
    let pixels = file.tensor("pixel_values").map_err(|_| format!("has no `pixel_values`; it holds {:?}", file.names()))?;
    let [b, 3, h, w] = *pixels.shape() else {
        return Err(format!("`pixel_values` has the shape {:?}; want [B, 3, H, W]", pixels.shape()));
    };
    if pixels.dtype() != Dtype::F32 {
        return Err(format!("`pixel_values` is {:?}; want F32", pixels.dtype()));
    }
    if Shape::checked(&[b, h, w, 3]).is_none() {
        return Err(format!("`pixel_values` has the shape {:?}; want at least one element and less than 2^32", pixels.shape()));
    }
    let planes: Vec<f32> = bytemuck::pod_collect_to_vec(pixels.data());
    if let Some(i) = planes.iter().position(|x| !x.is_finite()) {
        return Err(format!("`pixel_values` holds {} at element {i}; want finite numbers", planes[i]));
    }
    let pixels = Host::f32([b, h, w, 3], channels_last(&planes, [3, h * w]));
    let mask = match file.tensor("pixel_mask") {
        Ok(mask) => read_mask(&mask, [b, h, w])?,
        Err(_) => vec![1; b * h * w],
    };
    Ok((pixels, Host::u32([b, h, w], mask)))
}

/// `[B, C, P]` to `[B, P, C]`, for any B.
fn channels_last(planes: &[f32], [c, p]: [usize; 2]) -> Vec<f32> {
    let mut pixels = vec![0.0; planes.len()];
    for (pixels, planes) in pixels.chunks_mut(c * p).zip(planes.chunks(c * p)) {
        for (channel, plane) in planes.chunks(p).enumerate() {
            for (pixel, &value) in plane.iter().enumerate() {
                pixels[pixel * c + channel] = value;
            }
        }
    }
    pixels
}

/// The mask in any type that PyTorch users write it in.
fn read_mask(mask: &TensorView<'_>, shape: [usize; 3]) -> Result<Vec<u32>, String> {
    if mask.shape() != shape {
        return Err(format!("`pixel_mask` has the shape {:?}; want {shape:?}, as `pixel_values`", mask.shape()));
    }
    let data = mask.data();
    let values: Vec<f64> = match mask.dtype() {
        Dtype::BOOL | Dtype::U8 => data.iter().map(|&x| x.into()).collect(),
        Dtype::I8 => data.iter().map(|&x| (x as i8).into()).collect(),
        Dtype::I32 => bytemuck::pod_collect_to_vec::<u8, i32>(data).into_iter().map(f64::from).collect(),
        Dtype::I64 => bytemuck::pod_collect_to_vec::<u8, i64>(data).into_iter().map(|x| x as f64).collect(),
        Dtype::F16 => bytemuck::pod_collect_to_vec::<u8, f16>(data).into_iter().map(f64::from).collect(),
        Dtype::F32 => bytemuck::pod_collect_to_vec::<u8, f32>(data).into_iter().map(f64::from).collect(),
        other => return Err(format!("`pixel_mask` is {other:?}; want BOOL, U8, I8, I32, I64, F16 or F32")),
    };
    match values.iter().find(|&&x| x != 0.0 && x != 1.0) {
        Some(other) => Err(format!("`pixel_mask` holds {other}; want 1 where the picture is and 0 in the padding")),
        None => Ok(values.into_iter().map(|x| x as u32).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::serialize;

    fn file(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> Vec<u8> {
        let views = tensors.iter().map(|(name, ty, shape, data)| (*name, TensorView::new(*ty, shape.to_vec(), data).unwrap()));
        serialize(views.collect::<Vec<_>>(), None).unwrap()
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    #[test]
    fn channels_go_last_and_a_missing_mask_is_all_picture() {
        let planes: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let (pixels, mask) = read(&file(&[("pixel_values", Dtype::F32, &[1, 3, 2, 2], floats(&planes))])).unwrap();
        assert_eq!(pixels.to_f32()[..6], [0.0, 4.0, 8.0, 1.0, 5.0, 9.0]);
        assert_eq!(mask.as_u32(), [1; 4]);
    }

    #[test]
    fn masks_come_in_many_types() {
        let pixels = ("pixel_values", Dtype::F32, &[1, 3, 1, 2][..], floats(&[0.0; 6]));
        let long: Vec<u8> = [1i64, 0].iter().flat_map(|x| x.to_le_bytes()).collect();
        for (ty, data) in [(Dtype::BOOL, vec![1, 0]), (Dtype::U8, vec![1, 0]), (Dtype::I64, long), (Dtype::F32, floats(&[1.0, 0.0]))] {
            let bytes = file(&[pixels.clone(), ("pixel_mask", ty, &[1, 1, 2], data)]);
            assert_eq!(read(&bytes).unwrap().1.as_u32(), [1, 0], "{ty:?}");
        }
    }

    #[test]
    fn wrong_inputs_are_named() {
        let refused = |tensors: &[(&str, Dtype, &[usize], Vec<u8>)]| read(&file(tensors)).unwrap_err();
        assert!(refused(&[("x", Dtype::F32, &[1], floats(&[0.0]))]).contains("no `pixel_values`"));
        assert!(refused(&[("pixel_values", Dtype::F32, &[3, 1, 1], floats(&[0.0; 3]))]).contains("[B, 3, H, W]"));
        assert!(refused(&[("pixel_values", Dtype::U8, &[1, 3, 1, 1], vec![0; 3])]).contains("want F32"));
        assert!(refused(&[("pixel_values", Dtype::F32, &[0, 3, 1, 1], vec![])]).contains("at least one"));
        assert!(refused(&[("pixel_values", Dtype::F32, &[1, 3, 1, 1], floats(&[0.0, f32::NAN, 0.0]))]).contains("NaN at element 1"));
        let pixels = ("pixel_values", Dtype::F32, &[1, 3, 1, 1][..], floats(&[0.0; 3]));
        assert!(refused(&[pixels.clone(), ("pixel_mask", Dtype::U8, &[1, 2, 1], vec![1, 1])]).contains("pixel_mask"));
        assert!(refused(&[pixels, ("pixel_mask", Dtype::U8, &[1, 1, 1], vec![7])]).contains("holds 7"));
        assert!(read(b"{}").unwrap_err().contains("no safetensors"));
    }
}
