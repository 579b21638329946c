//! `qdetr explain`: what happens to the decoder's queries in few bits, what they attend to, and what is found, as pictures and numbers.

mod pictures;
mod queries;

use super::DeviceArgs;
use super::detect::{Found, probability};
use super::model::{ResizeArgs, class_name, read};
use super::output::{print, print_json, progress};
use super::pictures::{Picture, drawings, expand, for_each_batch};
use clap::Args;
use qdetr::data::image::{self, RgbImage};
use qdetr::data::preprocess::{Batch, Resize, Sample, Size};
use qdetr::data::{Dataset, ImageRecord, Options, Strictness};
use qdetr::gpu::Gpu;
use qdetr::graph::Values;
use qdetr::models::config::Alignment;
use qdetr::models::explain::share_in;
use qdetr::models::{Detection, Explainer, Look, ModelConfig};
use qdetr::nn::Precision;
use qdetr::train::distill::QueryMatcher;
use qdetr::{Error, Result};
use queries::{Queries, QueryReport};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `qdetr explain`.
#[derive(Args)]
pub(crate) struct Explain {
    /// Pictures (JPEG, PNG, WebP, BMP, GIF, TIFF), and folders of pictures
    #[arg(required = true, value_name = "IMAGE|FOLDER")]
    images: Vec<PathBuf>,
    /// The model to be explained
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// One to compare it with: of as few bits, trained without its method
    #[arg(long, value_name = "PATH")]
    baseline: Option<PathBuf>,
    /// Another one: the model of floats that it learned from
    #[arg(long, value_name = "PATH")]
    teacher: Option<PathBuf>,
    /// What is there, to be drawn too: a COCO annotation file, or the folder of a data set with one split
    #[arg(long, value_name = "PATH")]
    annotations: Option<PathBuf>,
    #[command(flatten)]
    resize: ResizeArgs,
    /// Queries of the model whose attention is drawn, by their numbers from 0; several behind commas [default: those of the best
    /// detections]; of the other models those are drawn whose boxes are nearest
    #[arg(long, value_name = "NUMBER", value_delimiter = ',')]
    queries: Vec<usize>,
    /// So many queries of the best detections
    #[arg(long, value_name = "N", default_value_t = 3, conflicts_with = "queries")]
    top: usize,
    /// Draw objects of at least this probability
    #[arg(long, default_value_t = 0.5, value_parser = probability)]
    threshold: f32,
    /// Print the numbers as JSON
    #[arg(long)]
    json: bool,
    /// The folder for the pictures: queries.png, and of each picture NAME-attention.png and NAME-detections.png
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

/// A model that looks at the pictures.
struct Eye {
    role: &'static str,
    title: String,
    explainer: Explainer,
    queries: Queries,
    /// How pictures are made for it.
    resize: Resize,
}

/// What a model saw on a picture.
struct Seen {
    look: Look,
    /// One a query, in their order.
    by_query: Vec<Detection>,
    /// Those of at least the threshold, best first.
    detections: Vec<Detection>,
    /// Width and height of a cell in pixels of the picture.
    cell: [f32; 2],
}

#[derive(Serialize)]
struct Report {
    queries: Vec<QueryReport>,
    images: Vec<ImageReport>,
    files: Vec<PathBuf>,
}

#[derive(Serialize)]
struct ImageReport {
    image: String,
    width: usize,
    height: usize,
    /// By model.
    detections: BTreeMap<&'static str, Vec<Found>>,
    attention: Vec<AttentionReport>,
}

/// What a query does in a model.
#[derive(Serialize)]
struct AttentionReport {
    query: usize,
    model: &'static str,
    #[serde(flatten)]
    found: Found,
    /// The share of its attention in the last layer that lies within its box, and within the box grown by half of its size on all sides.
    share_in_box: f32,
    share_around_box: f32,
}

impl Explain {
    pub(crate) fn run(&self, device: &DeviceArgs) -> Result<ExitCode> {
        let (paths, missing) = expand(&self.images)?;
        let models = self.models()?;
        let truth = self.annotations.as_deref().map(annotations).transpose()?;
        let gpu = device.open_for(Precision::F32, models.iter().any(|(_, (config, _))| config.quantization.is_some()))?;
        let rows = queries::rows(models[models.len() - 1].1.0.decoder_layers);
        let ours = models[models.len() - 1].1.0.clone();
        let open = |(role, model): (&'static str, (ModelConfig, Values))| {
            // A model that does not say how large it wants pictures sees those of the one to be explained.
            let resize = self.resize.resize(if model.0.resize.is_some() { &model.0 } else { &ours })?;
            Eye::open(&gpu, role, model, resize, rows.len())
        };
        let mut eyes = models.into_iter().map(open).collect::<Result<Vec<_>>>()?;
        let places = drawings(&self.out, &paths)?;
        let bar = progress(paths.len());
        let (mut images, mut files) = (Vec::new(), Vec::new());
        let broken = for_each_batch(
            &paths,
            1,
            &bar,
            |image| image,
            |pictures| {
                for picture in &pictures {
                    let place = &places[picture.index];
                    let (report, written) = self.explain(&mut eyes, picture, truth.as_ref(), place)?;
                    images.push(report);
                    files.extend(written);
                }
                Ok(())
            },
        )?;
        bar.finish_and_clear();
        let failed = broken + missing > 0;
        if !images.is_empty() {
            files.push(self.out.join("queries.png"));
            image::write(&files[files.len() - 1], &queries::draw(&eyes, rows.len()))?;
        }
        let report = Report { queries: queries::report(&eyes), images, files };
        if self.json {
            print_json(&report)?
        } else {
            print(&report)?
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// The models by their roles; the one to be explained is the last.
    fn models(&self) -> Result<Vec<(&'static str, (ModelConfig, Values))>> {
        let named = [("teacher", self.teacher.as_deref()), ("baseline", self.baseline.as_deref()), ("model", Some(self.model.as_path()))];
        let models = named.into_iter().filter_map(|(role, path)| Some((role, path?)));
        let models = models.map(|(role, path)| Ok((role, read(path)?))).collect::<Result<Vec<_>>>()?;
        let most = models[models.len() - 1].1.0.queries - 1;
        match self.queries.iter().find(|&&query| query > most) {
            Some(wrong) => Err(Error::Usage(format!("--queries {wrong}: the model's queries are 0 to {most}"))),
            None => Ok(models),
        }
    }

    /// Looks at a picture with all models, and draws what they saw.
    fn explain(
        &self,
        eyes: &mut [Eye],
        picture: &Picture<RgbImage>,
        truth: Option<&Dataset>,
        place: &Path,
    ) -> Result<(ImageReport, Vec<PathBuf>)> {
        let image = &picture.content;
        let seen = eyes.iter_mut().map(|eye| eye.see(image, self.threshold)).collect::<Result<Vec<Seen>>>()?;
        let chosen = self.chosen(&seen);
        let size = Size::of(image);
        let both = || eyes.iter().zip(&seen);
        let attention =
            chosen.iter().flat_map(|row| both().zip(row).map(|((eye, seen), &query)| AttentionReport::of(eye, seen, query, size)));
        let found = |(eye, seen): (&Eye, &Seen)| {
            let found = seen.detections.iter().map(|&d| Found::new(eye.explainer.config(), d, size));
            (eye.role, found.collect())
        };
        let report = ImageReport {
            image: picture.path.display().to_string(),
            width: size.width,
            height: size.height,
            detections: both().map(found).collect(),
            attention: attention.collect(),
        };
        let record = truth.and_then(|set| Some((set, record_of(set, &picture.path)?)));
        let stem = place.file_stem().unwrap_or_default().to_string_lossy();
        let files = ["attention", "detections"].map(|what| self.out.join(format!("{stem}-{what}.png")));
        image::write(&files[0], &pictures::attention(image, eyes, &seen, &chosen))?;
        image::write(&files[1], &pictures::detections(image, eyes, &seen, record))?;
        Ok((report, files.into()))
    }

    /// The queries to draw, those of all models: the ones of the model that are asked for, or its most certain ones, with their partners
    /// in the others, as distillation matches them.
    fn chosen(&self, seen: &[Seen]) -> Vec<Vec<usize>> {
        let (ours, others) = seen.split_last().expect("there is a model");
        let mut all: Vec<usize> = (0..ours.by_query.len()).collect();
        all.sort_by(|&a, &b| ours.by_query[b].score.total_cmp(&ours.by_query[a].score));
        all.truncate(self.top);
        let all = if self.queries.is_empty() { all } else { self.queries.clone() };
        let partner = |query: usize, theirs: &Seen| {
            let (ours, theirs) = (ours.look.boxes.to_f32(), theirs.look.boxes.to_f32());
            let (ours, theirs) = (ours.as_chunks().0, theirs.as_chunks().0);
            // The answers are finite: they have become detections.
            QueryMatcher::Q_DETR.nearest(ours[query], theirs).unwrap_or(query)
        };
        let row = |&query: &usize| others.iter().map(|theirs| partner(query, theirs)).chain([query]).collect();
        all.iter().map(row).collect()
    }
}

impl Eye {
    fn open(gpu: &Gpu, role: &'static str, (config, params): (ModelConfig, Values), resize: Resize, rows: usize) -> Result<Self> {
        let bits = config.quantization.as_ref().map_or_else(|| "floats".to_owned(), |q| q.bits.to_string());
        let name = match role {
            "teacher" => "Teacher",
            "baseline" => "Baseline",
            _ if config.alignment != Alignment::None => "Q-DETR",
            _ => "Model",
        };
        let queries = Queries::new(config.decoder_layers, rows);
        Ok(Self { role, title: format!("{name} ({bits})"), explainer: Explainer::new(gpu, config, params)?, queries, resize })
    }

    fn see(&mut self, image: &RgbImage, threshold: f32) -> Result<Seen> {
        let sample = Sample::new(image, self.resize);
        let batch = Batch::new(&[sample], None)?;
        let look = self.explainer.look(&batch)?;
        self.queries.add(&look);
        let (from, to, stride) = (batch.resized[0], batch.original[0], self.explainer.config().backbone.stride() as f32);
        let cell = [stride * to.width as f32 / from.width as f32, stride * to.height as f32 / from.height as f32];
        let (mut by_query, mut detections) = (look.by_query()?, look.detections(threshold)?);
        Ok(Seen { by_query: by_query.remove(0), detections: detections.remove(0), cell, look })
    }
}

impl AttentionReport {
    fn of(eye: &Eye, seen: &Seen, query: usize, size: Size) -> Self {
        let found = seen.by_query[query];
        let map = seen.look.map(0, query);
        let share = |bbox| share_in(bbox, &map, seen.look.cells[1], seen.cell);
        let [left, top, right, bottom] = found.bbox;
        let [x, y] = [(right - left) / 2.0, (bottom - top) / 2.0];
        Self {
            query,
            model: eye.role,
            found: Found::new(eye.explainer.config(), found, size),
            share_in_box: share(found.bbox),
            share_around_box: share([left - x, top - y, right + x, bottom + y]),
        }
    }
}

fn annotations(path: &Path) -> Result<Dataset> {
    Dataset::open_with(path, None, &Options { strictness: Strictness::Skip, categories: None })
}

/// What is annotated on a picture, found by the name of its file.
fn record_of<'a>(set: &'a Dataset, path: &Path) -> Option<&'a ImageRecord> {
    set.images.iter().find(|record| record.path.file_name() == path.file_name())
}

/// What a class is called, and how sure the model is.
fn label(config: &ModelConfig, found: &Detection) -> String {
    format!("{} {:.2}", class_name(config, found.label), found.score)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for report in &self.queries {
            write!(f, "{report}")?;
        }
        for image in &self.images {
            writeln!(f, "{} ({} × {})", image.image, image.width, image.height)?;
            for AttentionReport { query, model, found, share_in_box, share_around_box } in &image.attention {
                let (inside, around) = (100.0 * share_in_box, 100.0 * share_around_box);
                let Found { class, score, .. } = found;
                writeln!(f, "  query {query:3} {model:9} {class} {score:.3}, attention {inside:.0} % in its box, {around:.0} % around")?;
            }
        }
        let files: Vec<String> = self.files.iter().map(|file| file.display().to_string()).collect();
        if files.is_empty() {
            return Ok(());
        }
        writeln!(f, "written {}", files.join(", "))
    }
}
