//! Reads PASCAL VOC folders: `Annotations/*.xml`, `ImageSets/Main/SPLIT.txt`, `JPEGImages/`.
//!
//! VOC counts pixels from 1 and includes both ends: a box from `xmin` to `xmax` covers `xmin − 1 .. xmax` in the continuous
//! coordinates of this crate. Its width is then the devkit's `xmax − xmin + 1`, and overlaps are the devkit's.

use super::categories::Categories;
use super::coco::{Annotation, checked_box};
use super::dataset::{self, Dataset, ImageRecord, Options};
use super::report::{Kind, Report};
use crate::{Error, Result, boxes, files};
use quick_xml::events::Event;
use rayon::prelude::*;
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The 20 classes of PASCAL VOC, by label.
pub const CLASSES: [&str; 20] = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
];

/// The most that is read of one XML file; VOC's have a few kilobytes.
const MAX_XML: u64 = 16 << 20;
/// The most that is read of a list of images.
const MAX_LIST: u64 = 256 << 20;
/// Extensions of pictures in `JPEGImages`, the usual one first.
const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "JPG", "png", "webp", "bmp"];

/// Reads a split, or all annotations, of one or more VOC folders.
///
/// Labels are VOC's 0..=19 when all names are VOC's; a data set with other classes gets its own names in alphabetical
/// order, collected over all its annotations, so that every split has the same.
///
/// # Errors
/// [`Error::Io`] for a folder or list that cannot be read. What is wrong within goes into the report.
pub(super) fn read(folders: &[PathBuf], split: Option<&str>, options: &Options) -> Result<Dataset> {
    let mut report = Report::default();
    let mut parsed = Vec::new();
    for folder in folders {
        let names = match split {
            Some(split) => listed(&folder.join("ImageSets").join("Main").join(format!("{split}.txt")), &mut report)?,
            None => all_names(folder)?,
        };
        parsed.par_extend(names.into_par_iter().map(|name| (name.clone(), annotation(folder, &name))));
    }
    let categories = match &options.categories {
        Some(known) => known.clone(),
        None => own_categories(folders, &parsed)?,
    };
    let labels: HashMap<_, _> = categories.names().iter().enumerate().rev().map(|(label, name)| (name.as_str(), label)).collect();
    let mut images = Vec::with_capacity(parsed.len());
    let mut next_object = 1;
    for (i, (name, found)) in parsed.into_iter().enumerate() {
        match found {
            Ok(file) => images.push(record(i as i64 + 1, file, &labels, &mut next_object, &mut report)),
            Err((kind, file, what)) => report.add(kind, &file, || format!("image {name}"), || what),
        }
    }
    Ok(Dataset { images, categories, report })
}

/// The image names of a list: the first word of each line (lists of one class have a flag behind it).
fn listed(path: &Path, report: &mut Report) -> Result<Vec<String>> {
    let text = files::read_text(path, MAX_LIST)?;
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let Some(name) = line.split_whitespace().next() else { continue };
        if seen.insert(name) {
            names.push(name.to_owned());
        } else {
            report.add(Kind::DuplicateId, path, || format!("line {}", i + 1), || format!("image {name} is listed twice"));
        }
    }
    Ok(names)
}

/// The names of all annotation files, sorted.
fn all_names(folder: &Path) -> Result<Vec<String>> {
    let folder = folder.join("Annotations");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
        let path = entry.map_err(Error::io(&folder))?.path();
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("xml"))
            && let Some(stem) = path.file_stem().and_then(|s| s.to_str())
        {
            names.push(stem.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// One image's annotation, parsed and found to have a picture.
struct Parsed {
    xml: PathBuf,
    picture: PathBuf,
    size: (u32, u32),
    objects: Vec<ObjectXml>,
}

type Failure = (Kind, PathBuf, String);

fn annotation(folder: &Path, name: &str) -> Result<Parsed, Failure> {
    let xml = folder.join("Annotations").join(format!("{name}.xml"));
    if !xml.is_file() {
        return Err((Kind::MissingFile, xml, "the annotation file does not exist".into()));
    }
    let malformed = |what: String| (Kind::Malformed, xml.clone(), what);
    let text = files::read_text(&xml, MAX_XML).map_err(|e| malformed(e.to_string()))?;
    let parsed = parse(&text).map_err(&malformed)?;
    let pictures = folder.join("JPEGImages");
    let named = parsed.filename.map(|f| pictures.join(f.trim())).into_iter();
    let mut candidates = EXTENSIONS.iter().map(|e| pictures.join(format!("{name}.{e}"))).chain(named);
    let Some(picture) = candidates.find(|p| p.is_file()) else {
        return Err((Kind::MissingFile, xml, format!("there is no picture {name}.jpg in {}", pictures.display())));
    };
    let side = |text: Option<String>| text.and_then(|t| t.trim().parse::<u32>().ok()).filter(|&v| v > 0);
    let annotated = parsed.size.and_then(|s| side(s.width).zip(side(s.height)));
    let size = dataset::picture_size(annotated, &picture).map_err(malformed)?;
    Ok(Parsed { picture, size, objects: parsed.objects, xml })
}

/// What we read of an annotation file. All values are text: one that is no number is one object's mistake.
#[derive(Deserialize)]
struct AnnotationXml {
    filename: Option<String>,
    size: Option<SizeXml>,
    #[serde(default, rename = "object")]
    objects: Vec<ObjectXml>,
}

#[derive(Deserialize)]
struct SizeXml {
    width: Option<String>,
    height: Option<String>,
}

#[derive(Deserialize)]
struct ObjectXml {
    name: Option<String>,
    difficult: Option<String>,
    bndbox: Option<BoxXml>,
}

#[derive(Deserialize)]
struct BoxXml {
    xmin: Option<String>,
    ymin: Option<String>,
    xmax: Option<String>,
    ymax: Option<String>,
}

fn parse(text: &str) -> Result<AnnotationXml, String> {
    // Serde would take any root element for ours, and a page of HTML for an image without objects.
    let mut reader = quick_xml::Reader::from_str(text);
    let root = loop {
        match reader.read_event().map_err(|e| format!("not XML: {e}"))? {
            Event::Start(tag) | Event::Empty(tag) => break tag.name().as_ref().to_string(),
            Event::Eof => return Err("expected a VOC annotation, found no XML element".into()),
            _ => {}
        }
    };
    if root != "annotation" {
        return Err(format!("expected a VOC annotation with the root <annotation>, found <{root}>"));
    }
    quick_xml::de::from_str(text).map_err(|e| format!("expected a VOC annotation: {e}"))
}

impl ObjectXml {
    fn class(&self) -> Option<&str> {
        self.name.as_deref().map(str::trim).filter(|n| !n.is_empty())
    }

    /// The box as `xywh` in continuous coordinates.
    fn bbox(&self) -> Result<[f64; 4], String> {
        let Some(BoxXml { xmin, ymin, xmax, ymax }) = &self.bndbox else { return Err("it has no <bndbox>".into()) };
        let [x0, y0, x1, y1] =
            [xmin, ymin, xmax, ymax].map(|v| v.as_deref().and_then(|v| v.trim().parse::<f64>().ok()).filter(|v| v.is_finite()));
        let (Some(x0), Some(y0), Some(x1), Some(y1)) = (x0, y0, x1, y1) else {
            let shown = |v: &Option<String>| v.as_deref().unwrap_or("nothing").chars().take(20).collect::<String>();
            return Err(format!("expected numbers as box, found {}, {}, {}, {}", shown(xmin), shown(ymin), shown(xmax), shown(ymax)));
        };
        if x1 < x0 || y1 < y0 {
            return Err(format!("expected xmin <= xmax and ymin <= ymax, found {x0}, {y0}, {x1}, {y1}"));
        }
        checked_box(&boxes::xyxy_to_xywh([x0 - 1.0, y0 - 1.0, x1, y1]).map(Some))
    }
}

/// VOC's own classes, or those of the data set.
fn own_categories(folders: &[PathBuf], parsed: &[(String, Result<Parsed, Failure>)]) -> Result<Categories> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    for file in parsed.iter().filter_map(|(_, p)| p.as_ref().ok()) {
        names.extend(file.objects.iter().filter_map(ObjectXml::class).map(str::to_owned));
    }
    let voc = Categories::from_names(CLASSES);
    if names.iter().all(|n| CLASSES.contains(&n.as_str())) {
        return voc;
    }
    for folder in folders {
        let found = all_names(folder)?.into_par_iter().flat_map_iter(|name| {
            let xml = folder.join("Annotations").join(format!("{name}.xml"));
            let parsed = files::read_text(xml, MAX_XML).ok().and_then(|text| parse(&text).ok());
            parsed.map_or(Vec::new(), |p| p.objects.iter().filter_map(|o| o.class().map(str::to_owned)).collect())
        });
        names.extend(found.collect::<HashSet<_>>());
    }
    Categories::from_names(names)
}

fn record(id: i64, file: Parsed, labels: &HashMap<&str, usize>, next_object: &mut i64, report: &mut Report) -> ImageRecord {
    let (width, height) = file.size;
    let mut image = ImageRecord { id, path: file.picture, width, height, objects: Vec::with_capacity(file.objects.len()) };
    for (i, found) in file.objects.iter().enumerate() {
        let item = || format!("object {}", i + 1);
        let Some(class) = found.class() else {
            report.add(Kind::Malformed, &file.xml, item, || "it has no <name>".into());
            continue;
        };
        let Some(&label) = labels.get(class) else {
            report.add(Kind::UnknownCategory, &file.xml, item, || format!("its class `{class}` is not known"));
            continue;
        };
        match found.bbox() {
            Ok(bbox) => {
                let annotation = Annotation {
                    id: *next_object,
                    image_id: id,
                    category_id: 0,
                    bbox,
                    area: bbox[2] * bbox[3],
                    crowd: false,
                    difficult: found.difficult.as_deref().is_some_and(|d| d.trim() == "1"),
                };
                *next_object += 1;
                let object = dataset::object(&annotation, label, &image, &file.xml, report);
                image.objects.push(object);
            }
            Err(what) => report.add(Kind::BadBox, &file.xml, item, || what),
        }
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOG: &str = "<annotation><filename>a.jpg</filename><size><width>5</width><height>4</height></size>\
        <object><name> dog </name><pose>Left</pose><difficult>1</difficult><part><name>head</name></part>\
        <bndbox><xmin>1</xmin><ymin>2.5</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></object>\
        <object><name>cat</name><bndbox><xmin>x</xmin></bndbox></object></annotation>";

    #[test]
    fn objects_are_read_with_continuous_boxes() {
        let parsed = parse(DOG).unwrap();
        assert_eq!(parsed.objects[0].class(), Some("dog"));
        assert_eq!(parsed.objects[0].bbox(), Ok([0.0, 1.5, 3.0, 2.5]));
        assert!(parsed.objects[1].bbox().unwrap_err().contains("found x, nothing"));
    }

    #[test]
    fn what_is_no_annotation_is_refused() {
        for (text, expected) in [
            ("", "no XML element"),
            ("<html><body/></html>", "found <html>"),
            ("<annotation><object>", "expected a VOC annotation"),
            ("<annotation></object></annotation>", "expected a VOC annotation"),
            ("{\"images\": []}", "no XML element"),
            ("<annotation><object><name>&bomb;</name></object></annotation>", "expected a VOC annotation"),
        ] {
            let error = parse(text).err().unwrap_or_else(|| panic!("{text}"));
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn deep_and_large_files_are_read_in_linear_time() {
        let deep = format!("<annotation><a>{}{}</a></annotation>", "<b>".repeat(300_000), "</b>".repeat(300_000));
        let deep_object = deep.replace("<a>", "<object>").replace("</a>", "</object>");
        let wide = format!("<annotation>{}</annotation>", "<object><name>dog</name></object>".repeat(100_000));
        let attributes = format!("<annotation {}/>", (0..50_000).map(|i| format!("a{i}='1' ")).collect::<String>());
        let start = std::time::Instant::now();
        for text in [deep, deep_object, wide, attributes] {
            // Whether it is taken is beside the point: it must end soon, without overflowing the stack.
            let _ = parse(&text);
        }
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}
