//! A data set in memory: where the pictures lie and what is annotated on them, the same for every source format.

use super::categories::Categories;
use super::coco::{self, Annotation};
use super::report::{Kind, Report, Strictness};
use super::{layout, voc};
use crate::{Error, Result, boxes};
use rayon::prelude::*;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Boxes may leave their image by this much: annotations are rounded.
const OUTSIDE_TOLERANCE: f64 = 1.0;

/// One annotated object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Object {
    /// `xyxy` in pixels of the image, clipped to it.
    pub bbox: [f32; 4],
    /// Training label, a position in the data set's [`Categories`].
    pub label: usize,
    /// The annotation's id in its file; VOC has none, there they count from 1.
    pub id: i64,
    /// `xywh` in pixels as the file has it: what an evaluation compares with.
    pub original: [f64; 4],
    /// Area in square pixels, of the mask in COCO's own files.
    pub area: f64,
    /// Many objects under one box (COCO).
    pub crowd: bool,
    /// Hard to see (VOC), or to be ignored (converted files).
    pub difficult: bool,
}

impl Object {
    /// Whether a model is trained on it: DETR leaves out crowds and, after clipping, boxes without area. Difficult objects
    /// of VOC are kept: they are objects.
    pub fn is_trainable(&self) -> bool {
        !self.crowd && self.bbox[2] > self.bbox[0] && self.bbox[3] > self.bbox[1]
    }
}

/// One picture with its objects.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageRecord {
    /// The image's id in its file; VOC has none, there they count from 1 in the order of the split.
    pub id: i64,
    /// The picture; it was there when the data set was opened.
    pub path: PathBuf,
    /// Width in pixels, as annotated.
    pub width: u32,
    /// Height in pixels, as annotated.
    pub height: u32,
    /// All objects, those included that are not trained on.
    pub objects: Vec<Object>,
}

impl ImageRecord {
    /// The objects to train on; see [`Object::is_trainable`].
    pub fn trainable(&self) -> impl Iterator<Item = &Object> {
        self.objects.iter().filter(|o| o.is_trainable())
    }
}

/// How to open a data set.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What to do about annotation mistakes.
    pub strictness: Strictness,
    /// The classes of the model, when it has some already: those of the data set are found in them by name. Training and
    /// validation then agree on labels whatever their files say.
    pub categories: Option<Categories>,
}

/// Pictures with annotated objects.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// The pictures, in the order of the file or split.
    pub images: Vec<ImageRecord>,
    /// The classes; positions are training labels.
    pub categories: Categories,
    /// What was wrong with the annotations.
    pub report: Report,
}

impl Dataset {
    /// Opens a data set, leaving out what is wrong with it: see [`Dataset::open_with`].
    ///
    /// # Errors
    /// As [`Dataset::open_with`].
    pub fn open(path: impl AsRef<Path>, split: Option<&str>) -> Result<Self> {
        Self::open_with(path, split, &Options::default())
    }

    /// Opens a data set; the format is found out.
    ///
    /// - COCO: the annotation file itself (`….json`), or a folder with `annotations/instances_SPLIT*.json`,
    ///   `instances_SPLIT*.json`, `SPLIT.json` or `SPLIT/_annotations.coco.json`. Pictures are looked for in `SPLIT*/`,
    ///   `images/SPLIT*/`, `images/`, and beside the file.
    /// - PASCAL VOC: a folder with `Annotations/`, `JPEGImages/` and `ImageSets/Main/SPLIT.txt` (without `ImageSets`, all
    ///   annotations), or the folder of such folders (`VOCdevkit`): all years that have the split are joined.
    ///
    /// Without a split, the data set must have exactly one.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Format`] when nothing readable is found, no image is left, or there is a mistake and
    /// mistakes are fatal; [`Error::Usage`] when a split must be named.
    pub fn open_with(path: impl AsRef<Path>, split: Option<&str>, options: &Options) -> Result<Self> {
        let source = layout::find(path.as_ref(), split)?;
        let (set, main_file) = match &source {
            layout::Source::Coco { annotations, folders } => (Self::read_coco(annotations, folders, options)?, annotations.as_path()),
            layout::Source::Voc { folders, split } => (voc::read(folders, split.as_deref(), options)?, path.as_ref()),
        };
        set.report.judge(options.strictness)?;
        if set.images.is_empty() {
            return Err(Error::format(main_file, format!("no image is left to use; {}", set.report)));
        }
        Ok(set)
    }

    fn read_coco(path: &Path, folders: &[PathBuf], options: &Options) -> Result<Self> {
        let mut report = Report::default();
        let coco::Records { categories, images, annotations } = coco::read(path, &mut report)?;
        let own = Categories::new(categories.iter().cloned()).map_err(|e| Error::format(path, e.to_string()))?;
        let known = options.categories.clone().unwrap_or(own);
        let by_name: HashMap<_, _> = known.names().iter().enumerate().rev().map(|(label, name)| (name.as_str(), label)).collect();
        // A file's own classes are known by id: two of them may have one name.
        let label_of = |id: i64, name: &str| match options.categories {
            None => known.label_of_id(id),
            Some(_) => by_name.get(name).copied(),
        };
        let labels: HashMap<i64, Option<usize>> = categories.iter().map(|(id, name)| (*id, label_of(*id, name))).collect();

        let folder = picture_folder(path, folders, &images)?;
        let mut records = located(path, &folder, images, &mut report);
        let position: HashMap<_, _> = records.iter().enumerate().map(|(i, r)| (r.id, i)).collect();
        for annotation in &annotations {
            // Images without a file were reported once, with the file.
            let Some(&i) = position.get(&annotation.image_id) else { continue };
            let item = || format!("annotation {}", annotation.id);
            match labels[&annotation.category_id] {
                Some(label) => {
                    let object = object(annotation, label, &records[i], path, &mut report);
                    records[i].objects.push(object);
                }
                None => report
                    .add(Kind::UnknownCategory, path, item, || format!("the model does not know its category {}", annotation.category_id)),
            }
        }
        Ok(Self { images: records, categories: known, report })
    }
}

/// The first folder that has one of the file's first pictures.
fn picture_folder(path: &Path, folders: &[PathBuf], images: &[coco::Image]) -> Result<PathBuf> {
    let first: Vec<_> = images.iter().filter_map(|i| i.file_name.as_deref()).take(100).collect();
    let found = folders.iter().find(|folder| first.iter().any(|name| folder.join(name).is_file()));
    found.cloned().ok_or_else(|| {
        let looked: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
        let name = first.first().copied().unwrap_or("(no file_name in the file)");
        Error::format(path, format!("its pictures were not found: looked for {name} and others in {}", looked.join(", ")))
    })
}

/// The images whose picture is there, with their sizes: from the annotations, else from the picture's head.
fn located(path: &Path, folder: &Path, images: Vec<coco::Image>, report: &mut Report) -> Vec<ImageRecord> {
    let found: Vec<Result<ImageRecord, (Kind, i64, String)>> = images
        .into_par_iter()
        .map(|image| {
            let Some(name) = image.file_name else { return Err((Kind::Malformed, image.id, "it has no file_name".into())) };
            let file = folder.join(name);
            if !file.is_file() {
                return Err((Kind::MissingFile, image.id, format!("{} does not exist", file.display())));
            }
            match picture_size(image.size, &file) {
                Ok((width, height)) => Ok(ImageRecord { id: image.id, path: file, width, height, objects: Vec::new() }),
                Err(what) => Err((Kind::Malformed, image.id, what)),
            }
        })
        .collect();
    let mut kept = Vec::with_capacity(found.len());
    for image in found {
        match image {
            Ok(record) => kept.push(record),
            Err((kind, id, what)) => report.add(kind, path, || format!("image {id}"), || what),
        }
    }
    kept
}

/// The annotated size; converters write 0 × 0 often enough, then the picture is asked.
pub(crate) fn picture_size(annotated: Option<(u32, u32)>, file: &Path) -> Result<(u32, u32), String> {
    annotated.map_or_else(|| image::image_dimensions(file).map_err(|e| format!("no size is annotated, and {}: {e}", file.display())), Ok)
}

/// A training object from an annotation: its box clipped, a box outside reported.
pub(crate) fn object(annotation: &Annotation, label: usize, image: &ImageRecord, file: &Path, report: &mut Report) -> Object {
    let (width, height) = (f64::from(image.width), f64::from(image.height));
    let [x0, y0, x1, y1] = boxes::xywh_to_xyxy(annotation.bbox);
    if x0.min(y0) < -OUTSIDE_TOLERANCE || x1 > width + OUTSIDE_TOLERANCE || y1 > height + OUTSIDE_TOLERANCE {
        let item = || format!("annotation {}", annotation.id);
        report.add(Kind::OutsideBox, file, item, || {
            format!("its box {x0}, {y0} to {x1}, {y1} leaves {}, which has {width} x {height} pixels", image.path.display())
        });
    }
    Object {
        bbox: boxes::clip([x0, y0, x1, y1], width, height).map(|v| v as f32),
        label,
        id: annotation.id,
        original: annotation.bbox,
        area: annotation.area,
        crowd: annotation.crowd,
        difficult: annotation.difficult,
    }
}
