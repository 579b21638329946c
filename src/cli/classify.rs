//! `qdetr classify`: what the ImageNet backbone makes of a photo. It shows that the convolutions see, before any detector is
//! trained.

use super::DeviceArgs;
use super::model::mobilenet;
use super::output::{print, print_json, progress};
use super::pictures::{Picture, drawings, expand, for_each_batch};
use clap::Args;
use qdetr::Result;
use qdetr::data::image::{self, RgbImage};
use qdetr::data::labels::imagenet1000;
use qdetr::data::preprocess::{Batch, Sample, Size, imagenet_view};
use qdetr::draw::{self, Label};
use qdetr::models::Classifier;
use qdetr::nn::Precision;
use qdetr::weights::{self, Extras};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

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
    /// Write the pictures with the best class to this folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
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
        let params = weights::fit(mobilenet()?, Classifier::wants(), Extras::Refuse)?;
        let mut classifier = Classifier::new(&device.open_for(self.precision, false)?, params, self.precision)?;
        let drawings = self.out.as_deref().map(|folder| drawings(folder, &paths)).transpose()?;
        let (bar, mut images) = (progress(paths.len()), Vec::new());
        let view = |image: RgbImage| {
            let sample = Sample { original: Size::of(&image), image: imagenet_view(&image) };
            (sample, image)
        };
        failures += for_each_batch(&paths, 1, &bar, view, |pictures| {
            for Picture { index, path, content: (sample, image) } in pictures {
                let batch = Batch::new(&[sample], None)?;
                let best = classifier.best(&batch.pictures.normalized(), self.top as usize)?.remove(0);
                let class = |(id, probability)| Class { class: imagenet1000()[id], class_id: id, probability };
                let report = ImageReport { image: path.to_string_lossy().into_owned(), classes: best.into_iter().map(class).collect() };
                if let Some(drawings) = &drawings {
                    report.draw(image, &drawings[index])?;
                }
                images.push(report);
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

impl ImageReport {
    /// The whole picture as one box of the best class.
    fn draw(&self, mut picture: RgbImage, path: &Path) -> Result<()> {
        let (bbox, best) = ([0.0, 0.0, picture.width() as f32, picture.height() as f32], &self.classes[0]);
        let text = format!("{} {:.2}", best.class, best.probability);
        draw::boxes(&mut picture, &[Label { text: &text, bbox, class_id: best.class_id }]);
        image::write(path, &picture)
    }
}

impl fmt::Display for ImageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let classes: Vec<String> = self.classes.iter().map(|c| format!("{} {:.3}", c.class, c.probability)).collect();
        writeln!(f, "{}: {}", self.image, classes.join(", "))
    }
}
