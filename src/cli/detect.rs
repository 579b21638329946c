//! `qdetr detect`: photos in, boxes out.

use super::DeviceArgs;
use super::model::{ModelArgs, ResizeArgs, class_name};
use super::output::{check_place, print, print_json, progress};
use super::pictures::{Picture, drawings, expand, for_each_batch};
use clap::Args;
use indicatif::ProgressBar;
use qdetr::boxes::xyxy_to_xywh;
use qdetr::data::Strictness;
use qdetr::data::image::{self, RgbImage};
use qdetr::data::preprocess::{Batch, Sample, Size};
use qdetr::draw::{self, Label};
use qdetr::models::{Detection, Detector, ModelConfig, Results};
use qdetr::{Error, Result, eval};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `qdetr detect`.
#[derive(Args)]
pub(crate) struct Detect {
    /// Pictures (JPEG, PNG, WebP, BMP, GIF, TIFF), and folders of pictures
    #[arg(required = true, value_name = "IMAGE|FOLDER")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    resize: ResizeArgs,
    /// Report objects of at least this probability
    #[arg(long, default_value_t = 0.5, value_parser = probability)]
    threshold: f32,
    /// Report at most so many objects of a picture, the most probable ones
    #[arg(long, value_name = "N")]
    top: Option<usize>,
    /// Pictures that the GPU works on at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    batch: u32,
    /// Print JSON: {"images": [{"image", "width", "height", "detections": [{"class", "class_id", "score", "bbox"}]}]}, a bbox
    /// being [x_min, y_min, x_max, y_max] in pixels of the picture
    #[arg(long)]
    json: bool,
    /// Write COCO result records to this file; a picture's image_id is its file name when that is a number, else its place, from 0
    #[arg(long, value_name = "FILE")]
    coco: Option<PathBuf>,
    /// Ids of classes in --coco: those that this COCO annotation file has for the model's class names, for `qdetr eval` [default: the model's
    /// own numbers, which are COCO's for models of COCO, and otherwise count from 0]
    #[arg(long, value_name = "ANNOTATIONS", requires = "coco")]
    categories: Option<PathBuf>,
    /// Write the pictures with boxes, class names and scores to this folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

pub(crate) fn probability(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|p| (0.0..=1.0).contains(p)).ok_or_else(|| "want a number from 0 to 1".into())
}

#[derive(Serialize)]
struct Report {
    images: Vec<ImageReport>,
}

#[derive(Serialize)]
struct ImageReport {
    image: String,
    width: usize,
    height: usize,
    detections: Vec<Found>,
    #[serde(skip)]
    coco: Vec<eval::Detection>,
}

#[derive(Serialize)]
pub(crate) struct Found {
    pub(crate) class: String,
    class_id: usize,
    pub(crate) score: f32,
    /// `xyxy` in pixels of the picture, cut at its borders.
    bbox: [f32; 4],
}

impl Found {
    pub(crate) fn new(config: &ModelConfig, found: Detection, picture: Size) -> Self {
        let d = found.clamped(picture);
        Self { class: class_name(config, d.label), class_id: d.label, score: d.score, bbox: d.bbox }
    }
}

/// A picture that waits for its boxes.
struct Photo {
    sample: Sample,
    /// The whole picture, when it is to be drawn on.
    image: Option<RgbImage>,
}

impl Detect {
    pub(crate) fn run(&self, device: &DeviceArgs) -> Result<ExitCode> {
        let (paths, missing) = expand(&self.images)?;
        self.coco.as_deref().map(check_place).transpose()?;
        // Both take a while, and a process that looks at one picture does little else.
        let (model, gpu) = rayon::join(|| self.model.load(), || device.open());
        let model = model?;
        let resize = self.resize.resize(&model.config)?;
        let ids = self.categories.as_deref().map(|path| category_ids(path, &model.config)).transpose()?;
        let gpu = device.prove(gpu?, self.model.precision, model.config.quantization.is_some())?;
        let drawings = self.out.as_deref().map(|folder| drawings(folder, &paths)).transpose()?;
        if let Some(what) = model.random {
            eprintln!("note: {}: {what}, the boxes mean nothing", model.name);
        }
        let mut detector = model.detector(&gpu, Results::Answers)?;
        let bar = progress(paths.len());
        let (mut reports, mut failures) = (Vec::new(), missing);
        let prepare = |image| Photo { sample: Sample::new(&image, resize), image: drawings.is_some().then_some(image) };
        let broken = for_each_batch(&paths, self.batch as usize, &bar, prepare, |pictures| {
            let (done, failed) = self.work(&mut detector, pictures, drawings.as_deref(), &bar)?;
            failures += failed;
            reports.extend(done);
            Ok(())
        })?;
        bar.finish_and_clear();
        failures += broken;
        if let Some(path) = &self.coco {
            let id = |class: i64| ids.as_ref().map_or(class, |ids| ids[class as usize]);
            let records = reports.iter().flat_map(|r: &ImageReport| r.coco.iter().copied());
            let records: Vec<eval::Detection> = records.map(|d| eval::Detection { category_id: id(d.category_id), ..d }).collect();
            eval::write_detections(path, &records)?;
        }
        if self.json {
            print_json(&Report { images: reports })?;
        }
        Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Detects on one batch, draws, and prints the lines that people read; returns what was found and how many pictures failed.
    fn work(
        &self,
        detector: &mut Detector,
        mut pictures: Vec<Picture<Photo>>,
        drawings: Option<&[PathBuf]>,
        bar: &ProgressBar,
    ) -> Result<(Vec<ImageReport>, usize)> {
        let samples: Vec<Sample> = pictures.iter().map(|p| p.content.sample.clone()).collect();
        let found = match Batch::new(&samples, None).and_then(|batch| detector.detect(&batch, self.threshold)) {
            Ok(found) => found,
            // These concern the batch, not the device: others may do better.
            Err(error @ (Error::NotFinite(_) | Error::Config(_) | Error::OutOfMemory(_))) => {
                let names: Vec<String> = pictures.iter().map(|p| p.path.display().to_string()).collect();
                bar.suspend(|| eprintln!("error: {}: {error}", names.join(", ")));
                return Ok((Vec::new(), names.len()));
            }
            Err(error) => return Err(error),
        };
        let config = detector.config();
        let top = |mut found: Vec<Detection>| {
            found.truncate(self.top.unwrap_or(usize::MAX));
            found
        };
        let reports: Vec<ImageReport> = pictures.iter().zip(found).map(|(p, found)| ImageReport::new(config, p, &top(found))).collect();
        let mut failures = 0;
        if let Some(drawings) = drawings {
            let draw = |(picture, report): (&mut Picture<Photo>, &ImageReport)| picture.draw(report, &drawings[picture.index]);
            let errors: Vec<Error> = pictures.par_iter_mut().zip(&reports).filter_map(|pair| draw(pair).err()).collect();
            bar.suspend(|| errors.iter().for_each(|error| eprintln!("error: {error}")));
            failures = errors.len();
        }
        if !self.json {
            bar.suspend(|| reports.iter().try_for_each(print))?;
        }
        Ok((reports, failures))
    }
}

/// The ids that an annotation file has for the classes of a model.
fn category_ids(path: &Path, config: &ModelConfig) -> Result<Vec<i64>> {
    let (truth, _) = eval::GroundTruth::read(path, Strictness::Skip)?;
    if config.class_names.len() != config.classes {
        return Err(Error::Usage("--categories: this model has no class names; leave it out, and ids are the model's own numbers".into()));
    }
    let id = |(class, name): (usize, &String)| {
        let found = truth.categories().iter().find(|(_, found)| found == name).map(|(id, _)| *id);
        // Models of COCO have numbers that no class has.
        found.or((name == "N/A").then_some(class as i64)).ok_or_else(|| {
            let there: Vec<&str> = truth.categories().iter().map(|(_, name)| name.as_str()).collect();
            Error::Usage(format!(
                "--categories: {} has no class `{name}`, which the model knows; it has {}",
                path.display(),
                there.join(", ")
            ))
        })
    };
    config.class_names.iter().enumerate().map(id).collect()
}

impl Picture<Photo> {
    fn draw(&mut self, report: &ImageReport, path: &Path) -> Result<()> {
        let Some(image) = &mut self.content.image else { return Ok(()) };
        let texts: Vec<String> = report.detections.iter().map(|d| format!("{} {:.2}", d.class, d.score)).collect();
        let both = texts.iter().zip(&report.detections);
        let labels: Vec<Label<'_>> = both.map(|(text, d)| Label { text, bbox: d.bbox, class_id: d.class_id }).collect();
        draw::boxes(image, &labels);
        image::write(path, image)
    }

    /// COCO's id: the file's name when that is a number, as in COCO itself, else the place among the pictures.
    fn image_id(&self) -> i64 {
        let number = self.path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        number.unwrap_or(self.index as i64)
    }
}

impl ImageReport {
    fn new(config: &ModelConfig, picture: &Picture<Photo>, found: &[Detection]) -> Self {
        let size = picture.content.sample.original;
        let report = |d: &Detection| Found::new(config, *d, size);
        // Uncut, as the reference implementation writes them.
        let record = |d: &Detection| eval::Detection {
            image_id: picture.image_id(),
            category_id: d.label as i64,
            bbox: xyxy_to_xywh(d.bbox.map(f64::from)),
            score: d.score.into(),
        };
        Self {
            image: picture.path.to_string_lossy().into_owned(),
            width: size.width,
            height: size.height,
            detections: found.iter().map(report).collect(),
            coco: found.iter().map(record).collect(),
        }
    }
}

impl fmt::Display for ImageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { image, width, height, detections, .. } = self;
        let objects = if detections.len() == 1 { "object" } else { "objects" };
        writeln!(f, "{image}: {} {objects} on {width} × {height} pixels{}", detections.len(), counts(detections))?;
        for Found { class, score, bbox: [left, top, right, bottom], .. } in detections {
            writeln!(f, "  {score:.3} {class:16} {left:7.1} {top:7.1} {right:7.1} {bottom:7.1}")?;
        }
        Ok(())
    }
}

/// How many there are of each class, the most frequent first: `: 14 RBC, 1 WBC`.
fn counts(detections: &[Found]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    detections.iter().for_each(|found| *counts.entry(&found.class).or_default() += 1);
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let counts: Vec<String> = counts.into_iter().map(|(class, count)| format!("{count} {class}")).collect();
    if counts.is_empty() { String::new() } else { format!(": {}", counts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_counted_by_class() {
        let found = |class: &str| Found { class: class.into(), class_id: 0, score: 0.5, bbox: [0.0; 4] };
        assert_eq!(counts(&["WBC", "RBC", "RBC", "Platelets"].map(found)), ": 2 RBC, 1 Platelets, 1 WBC");
        assert_eq!(counts(&[]), "");
    }

    #[test]
    fn thresholds_are_probabilities() {
        assert_eq!(probability("0.25"), Ok(0.25));
        for wrong in ["-0.1", "1.5", "NaN", "many"] {
            assert!(probability(wrong).is_err(), "{wrong}");
        }
    }
}
