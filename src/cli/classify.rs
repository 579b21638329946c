//! `qdetr classify`: what the ImageNet backbone makes of a photo. It shows that the convolutions see, before any detector is
//! trained.

use super::DeviceArgs;
use super::output::{print, print_json, progress};
use super::pictures::{expand, for_each_batch};
use clap::Args;
use qdetr::Result;
use qdetr::data::labels::imagenet1000;
use qdetr::data::preprocess::{Batch, Sample, Size, imagenet_view};
use qdetr::models::Classifier;
use qdetr::nn::Precision;
use qdetr::weights::{self, Extras};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// torchvision's MobileNetV2; origin and licence are in `assets/models/README.md`.
const WEIGHTS: &[u8] = include_bytes!("../../assets/models/mobilenet_v2_imagenet.safetensors");

/// Arguments of `qdetr classify`.
#[derive(Args)]
pub(crate) struct Classify {
    /// Pictures, and folders of pictures
    #[arg(required = true, value_name = "IMAGE|FOLDER")]
    images: Vec<PathBuf>,
    /// How many classes to report
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    top: u32,
    /// What to compute in
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// Print JSON: {"images": [{"image", "classes": [{"class", "class_id", "probability"}]}]}
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    images: Vec<ImageReport>,
}

#[derive(Serialize)]
struct ImageReport {
    image: String,
    classes: Vec<Class>,
}

#[derive(Serialize)]
struct Class {
    class: &'static str,
    class_id: usize,
    probability: f32,
}

impl Classify {
    pub(crate) fn run(&self, device: &DeviceArgs) -> Result<ExitCode> {
        let (paths, mut failures) = expand(&self.images)?;
        let checkpoint = weights::parse(WEIGHTS, Path::new("the built-in MobileNetV2"))?;
        let params = weights::fit(checkpoint, &Classifier::wants(), Extras::Refuse)?;
        let mut classifier = Classifier::new(&device.open()?, params, self.precision)?;
        let (bar, mut images) = (progress(paths.len()), Vec::new());
        let view = |image| Sample { original: Size::of(&image), image: imagenet_view(&image) };
        failures += for_each_batch(&paths, 1, &bar, view, |pictures| {
            for picture in pictures {
                let batch = Batch::new(&[picture.content], None)?;
                let best = classifier.best(&batch.pixels, self.top as usize)?.remove(0);
                let class = |(id, probability)| Class { class: imagenet1000()[id], class_id: id, probability };
                let classes = best.into_iter().map(class).collect();
                images.push(ImageReport { image: picture.path.to_string_lossy().into_owned(), classes });
            }
            Ok(())
        })?;
        bar.finish_and_clear();
        if self.json {
            print_json(&Report { images })?
        } else {
            images.iter().try_for_each(print)?
        }
        Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl fmt::Display for ImageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let classes: Vec<String> = self.classes.iter().map(|c| format!("{} {:.3}", c.class, c.probability)).collect();
        writeln!(f, "{}: {}", self.image, classes.join(", "))
    }
}
