//! `qdetr quantize`: a packed file of a model on codes from a model of floats, without training.

use super::DeviceArgs;
use super::bits::{BitsArgs, method};
use super::export::{Written, check_out};
use super::model::{ResizeArgs, read};
use super::output::{print, print_json, progress};
use super::pictures::for_each_batch;
use clap::Args;
use qdetr::data::image::{self, RgbImage};
use qdetr::data::preprocess::{Batch, Sample};
use qdetr::data::{Dataset, ImageRecord};
use qdetr::models::{CalibrationMethod, Calibrator, ModelConfig};
use qdetr::nn::Precision;
use qdetr::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `qdetr quantize`.
#[derive(Args)]
pub(crate) struct Quantize {
    /// The float model: our .safetensors, a Hugging Face folder of a DETR, or an original DETR .pth
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// Pictures like those that the model will see: a folder of them, or a data set, of which its split `train`
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    #[command(flatten)]
    bits: BitsArgs,
    /// What decides the range of activations: min-max, percentile (of 99.99), percentile:P, or mse, the least squares of errors
    #[arg(long, value_name = "METHOD", default_value = "mse", value_parser = method_without_training)]
    method: CalibrationMethod,
    /// Use so many of the pictures, spread over all of them
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    images: u32,
    #[command(flatten)]
    resize: ResizeArgs,
    /// The file to be written: weights as codes at their real width. To train low bits, start from the float model instead
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// LSQ's rule is for those who go on training.
fn method_without_training(text: &str) -> Result<CalibrationMethod, String> {
    method(text).ok().filter(|_| text != "lsq").ok_or_else(|| "want mse, min-max, percentile, or percentile:P with P from 50 to 100".into())
}

impl Quantize {
    pub(crate) fn run(&self, device: &DeviceArgs) -> Result<ExitCode> {
        let missing = || Error::Usage("how many bits? say so with --bits 8-8-8".into());
        let quantization = self.bits.over(None)?.ok_or_else(missing)?;
        check_out(&self.model, &self.out)?;
        let (config, params) = read(&self.model)?;
        let resize = self.resize.resize(&config)?;
        if let Some(theirs) = config.quantization {
            return Err(Error::format(&self.model, format!("is quantized already: {theirs}; take the float model that it was made of")));
        }
        let paths = spread(pictures(&self.data)?, self.images as usize);
        let config = ModelConfig { quantization: Some(quantization), ..config };
        let gpu = device.open_for(Precision::F32, false)?;
        let mut calibrator = Calibrator::new(&gpu, &config, params, self.method)?;
        let bar = progress(paths.len());
        let prepare = |image: RgbImage| Sample::new(&image, resize);
        for_each_batch(&paths, 1, &bar, prepare, |pictures| {
            let samples: Vec<Sample> = pictures.into_iter().map(|picture| picture.content).collect();
            calibrator.observe(&Batch::new(&samples, None)?)
        })?;
        bar.finish_and_clear();
        let pictures = calibrator.pictures();
        let found = calibrator.finish()?;
        let written = Written::save(&self.out, &found.config, &found.params, &BTreeMap::new())?;
        let report = Report { pictures, written };
        if self.json {
            print_json(&report)?
        } else {
            print(&report)?
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The pictures of a file, a folder or a data set.
fn pictures(path: &Path) -> Result<Vec<PathBuf>> {
    let of_set = |set: Dataset| set.images.into_iter().map(|ImageRecord { path, .. }| path).collect();
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        return Dataset::open(path, None).map(of_set);
    }
    match image::list(path) {
        Err(Error::Format { .. }) => {
            let set = Dataset::open(path, Some("train"));
            set.map(of_set).map_err(|error| Error::format(path, format!("holds no pictures, and is no data set either: {error}")))
        }
        found => found,
    }
}

/// So many of a list, at equal distances.
fn spread(all: Vec<PathBuf>, count: usize) -> Vec<PathBuf> {
    let count = count.min(all.len());
    (0..count).map(|i| all[i * all.len() / count].clone()).collect()
}

/// What was made.
#[derive(Debug, Serialize)]
struct Report {
    /// Pictures that were read.
    pictures: usize,
    #[serde(flatten)]
    written: Written,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "steps      from {} pictures", self.pictures)?;
        write!(f, "{}", self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_pictures_are_spread_over_many() {
        let all: Vec<PathBuf> = (0..10).map(|i| PathBuf::from(i.to_string())).collect();
        let names = |count| spread(all.clone(), count).iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(names(3), ["0", "3", "6"]);
        assert_eq!(names(99).len(), 10);
    }
}
