//! Reads COCO's annotation files, `instances_*.json`.
//!
//! Two readers share `Records`: the training set ([`super::Dataset`]), which needs pictures and clips boxes, and the
//! ground truth of an evaluation ([`crate::eval::GroundTruth`]), which takes the boxes as they are. The file is first cut
//! into records without looking inside, then each record is parsed alone, on all cores: a record with a wrong type
//! is one mistake with an id, not the end of the file, and the polygons, most of a file's bytes, are never built.

use super::report::{Kind, Report};
use crate::{Error, Result, files};
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::Number;
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::path::Path;

/// The most that is read of an annotation file; COCO's largest has 0.5 GB.
const MAX_BYTES: u64 = 4 << 30;
/// Larger coordinates are a mistake: no picture has them, and their products must stay finite.
const MAX_COORDINATE: f64 = 1e9;

/// One annotated object as the file has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Annotation {
    /// The annotation's own id.
    pub id: i64,
    /// The image that it belongs to.
    pub image_id: i64,
    /// The class, by the id of the file.
    pub category_id: i64,
    /// `xywh` in pixels, finite, sizes not negative.
    pub bbox: [f64; 4],
    /// Area in square pixels, of the mask in COCO's own files; of the box where the file has none.
    pub area: f64,
    /// Many objects under one box: no detection is wrong there, none is right.
    pub crowd: bool,
    /// VOC's `difficult`, or `ignore` as converters write it: VOC's evaluation leaves such objects out.
    pub difficult: bool,
}

/// One image of the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Image {
    pub(crate) id: i64,
    pub(crate) file_name: Option<String>,
    /// Width and height, where the file says both and neither is 0.
    pub(crate) size: Option<(u32, u32)>,
}

/// A file without the records that are wrong.
#[derive(Debug)]
pub(crate) struct Records {
    /// Ids and names, in the order of the file.
    pub(crate) categories: Vec<(i64, String)>,
    pub(crate) images: Vec<Image>,
    pub(crate) annotations: Vec<Annotation>,
}

/// Reads a file; what is wrong goes into the report.
///
/// # Errors
/// [`Error::Io`], or [`Error::Format`] when the file as a whole is not JSON, or not COCO's.
pub(crate) fn read(path: &Path, report: &mut Report) -> Result<Records> {
    let mut text = files::read_text(path, MAX_BYTES)?;
    if serde_json::from_str::<File>(&text).is_err() && (text.contains("NaN") || text.contains("Infinity")) {
        text = nan_to_null(&text);
    }
    let file: File = serde_json::from_str(&text).map_err(|e| {
        Error::format(path, format!("expected a COCO annotation file (JSON with images, annotations and categories), found: {e}"))
    })?;
    let mut reader = Reader { path, report };
    let categories = reader.categories(&file.categories);
    let images = reader.images(&file.images);
    let annotations = reader.annotations(&file.annotations, &images, &categories);
    Ok(Records { categories, images, annotations })
}

/// Replaces the bare `NaN`, `Infinity` and `-Infinity` that Python writes, and no JSON allows, by `null`: one such number
/// is then one mistake, with an id.
pub(crate) fn nan_to_null(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    let mut rest = text;
    // Even pieces between quotes that are not escaped lie outside of strings.
    while let Some(quote) = rest.find('"') {
        out.push_str(&rest[..quote].replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null"));
        let end = string_end(&rest.as_bytes()[quote + 1..]);
        out.push_str(&rest[quote..(quote + 1 + end)]);
        rest = &rest[quote + 1 + end..];
    }
    out.push_str(&rest.replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null"));
    out
}

/// The length of a JSON string's bytes up to and with its closing quote.
fn string_end(bytes: &[u8]) -> usize {
    let mut escaped = false;
    for (i, &b) in bytes.iter().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return i + 1,
            _ => {}
        }
    }
    bytes.len()
}

/// The three lists that we read, cut into records.
#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    images: Vec<&'a RawValue>,
    #[serde(borrow)]
    annotations: Vec<&'a RawValue>,
    #[serde(borrow)]
    categories: Vec<&'a RawValue>,
}

/// A whole number, however it is written: `7`, `7.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Number")]
pub(crate) struct Id(pub(crate) i64);

impl TryFrom<Number> for Id {
    type Error = String;

    fn try_from(number: Number) -> Result<Self, String> {
        let whole = |v: f64| (v.fract() == 0.0 && v.abs() < (1u64 << 53) as f64).then_some(v as i64);
        let id = number.as_i64().or_else(|| number.as_f64().filter(|_| number.is_f64()).and_then(whole));
        id.map(Self).ok_or_else(|| format!("expected a whole number as id, found {number}"))
    }
}

/// `0`, `1`, `false` or `true`.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Flag {
    Bool(bool),
    Number(f64),
}

fn is_set(flag: Option<Flag>) -> bool {
    match flag {
        None => false,
        Some(Flag::Bool(b)) => b,
        Some(Flag::Number(n)) => n != 0.0,
    }
}

#[derive(Deserialize)]
struct CategoryRecord {
    id: Id,
    name: Option<String>,
}

#[derive(Deserialize)]
struct ImageRecord {
    id: Id,
    file_name: Option<String>,
    width: Option<f64>,
    height: Option<f64>,
}

#[derive(Deserialize)]
struct AnnotationRecord {
    id: Id,
    image_id: Id,
    category_id: Id,
    bbox: Vec<Option<f64>>,
    area: Option<f64>,
    iscrowd: Option<Flag>,
    ignore: Option<Flag>,
    difficult: Option<Flag>,
}

/// Only the id of a record whose other fields cannot be read.
#[derive(Deserialize)]
struct AnyRecord {
    id: Option<Id>,
}

/// Parses each record alone, on all cores.
pub(crate) fn parse_each<'a, T: Deserialize<'a> + Send>(raw: &[&'a RawValue]) -> Vec<Result<T, String>> {
    raw.par_iter()
        .map(|r| {
            serde_json::from_str(r.get()).map_err(|e| {
                let text = e.to_string();
                // The position that serde_json adds is within the record; it would be taken for one in the file.
                text.rsplit_once(" at line ").map_or(text.clone(), |(what, _)| what.into())
            })
        })
        .collect()
}

/// Four finite numbers, or what is wrong with them.
pub(crate) fn finite_box(bbox: &[Option<f64>]) -> Result<[f64; 4], String> {
    match bbox {
        &[Some(x), Some(y), Some(w), Some(h)] if [x, y, w, h].iter().all(|v| v.abs() <= MAX_COORDINATE) => Ok([x, y, w, h]),
        _ => {
            let shown: Vec<_> = bbox.iter().take(6).map(|v| v.map_or("null".into(), |v| v.to_string())).collect();
            let more = if bbox.len() > 6 { ", …" } else { "" };
            Err(format!("expected bbox [x, y, width, height] in pixels, found [{}{more}]", shown.join(", ")))
        }
    }
}

/// Four finite numbers with sizes that are not negative, or what is wrong with them.
pub(crate) fn checked_box(bbox: &[Option<f64>]) -> Result<[f64; 4], String> {
    let [x, y, w, h] = finite_box(bbox)?;
    if w < 0.0 || h < 0.0 {
        return Err(format!("expected bbox [x, y, width, height] with sizes of at least 0, found [{x}, {y}, {w}, {h}]"));
    }
    Ok([x, y, w, h])
}

struct Reader<'a> {
    path: &'a Path,
    report: &'a mut Report,
}

impl Reader<'_> {
    fn add(&mut self, kind: Kind, item: impl FnOnce() -> String, what: impl FnOnce() -> String) {
        self.report.add(kind, self.path, item, what);
    }

    /// The records that can be read, each id once, with the others reported.
    fn distinct<'a, T: Deserialize<'a> + Send>(&mut self, list: &str, raw: &[&'a RawValue], id: impl Fn(&T) -> Id) -> Vec<T> {
        let mut seen = HashSet::with_capacity(raw.len());
        let mut kept = Vec::with_capacity(raw.len());
        for (i, parsed) in parse_each::<T>(raw).into_iter().enumerate() {
            match parsed {
                Ok(record) if seen.insert(id(&record).0) => kept.push(record),
                Ok(record) => {
                    self.add(
                        Kind::DuplicateId,
                        || format!("{list}[{i}]"),
                        || format!("the id {} is taken by an earlier record", id(&record).0),
                    );
                }
                Err(what) => {
                    let known = || serde_json::from_str::<AnyRecord>(raw[i].get()).ok().and_then(|r| r.id);
                    let item = || known().map_or(format!("{list}[{i}]"), |id| format!("{list}[{i}] (id {})", id.0));
                    self.add(Kind::Malformed, item, || what);
                }
            }
        }
        kept
    }

    fn categories(&mut self, raw: &[&RawValue]) -> Vec<(i64, String)> {
        let records = self.distinct("categories", raw, |r: &CategoryRecord| r.id);
        records.into_iter().map(|r| (r.id.0, r.name.unwrap_or_else(|| r.id.0.to_string()))).collect()
    }

    fn images(&mut self, raw: &[&RawValue]) -> Vec<Image> {
        let side = |v: Option<f64>| v.filter(|v| (1.0..=f64::from(u32::MAX)).contains(v)).map(|v| v as u32);
        let records = self.distinct("images", raw, |r: &ImageRecord| r.id);
        records.into_iter().map(|r| Image { id: r.id.0, file_name: r.file_name, size: side(r.width).zip(side(r.height)) }).collect()
    }

    fn annotations(&mut self, raw: &[&RawValue], images: &[Image], categories: &[(i64, String)]) -> Vec<Annotation> {
        let images: HashSet<_> = images.iter().map(|i| i.id).collect();
        let categories: HashSet<_> = categories.iter().map(|c| c.0).collect();
        let records = self.distinct("annotations", raw, |r: &AnnotationRecord| r.id);
        let mut kept = Vec::with_capacity(records.len());
        for record in records {
            let item = || format!("annotation {}", record.id.0);
            if !images.contains(&record.image_id.0) {
                self.add(Kind::UnknownImage, item, || format!("its image {} is not in the file", record.image_id.0));
            } else if !categories.contains(&record.category_id.0) {
                self.add(Kind::UnknownCategory, item, || format!("its category {} is not in the file", record.category_id.0));
            } else {
                match checked_box(&record.bbox) {
                    Ok(bbox) => kept.push(self.annotation(&record, bbox)),
                    Err(what) => self.add(Kind::BadBox, item, || what),
                }
            }
        }
        kept
    }

    fn annotation(&mut self, record: &AnnotationRecord, bbox: [f64; 4]) -> Annotation {
        let id = record.id.0;
        let item = || format!("annotation {id}");
        if id == 0 {
            self.add(Kind::ZeroId, item, || "pycocotools never counts it as found; number annotations from 1".into());
        }
        if bbox[2] == 0.0 || bbox[3] == 0.0 {
            self.add(Kind::EmptyBox, item, || format!("its box of {} x {} pixels has no area", bbox[2], bbox[3]));
        }
        let crowd = is_set(record.iscrowd);
        Annotation {
            id,
            image_id: record.image_id.0,
            category_id: record.category_id.0,
            bbox,
            area: record.area.unwrap_or(bbox[2] * bbox[3]),
            crowd,
            difficult: crowd || is_set(record.ignore) || is_set(record.difficult),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_is_replaced_outside_of_strings_only() {
        let text = r#"{"a":[NaN, -Infinity,Infinity],"NaN \" NaN\\":"NaN","b":NaN}"#;
        assert_eq!(nan_to_null(text), r#"{"a":[null, null,null],"NaN \" NaN\\":"NaN","b":null}"#);
        assert_eq!(nan_to_null(r#"["open NaN"#), r#"["open NaN"#);
    }

    #[test]
    fn ids_are_whole_however_they_are_written() {
        let id = |s: &str| serde_json::from_str::<Id>(s).map(|id| id.0).ok();
        assert_eq!(
            [id("7"), id("7.0"), id("-7"), id("7.5"), id("\"7\""), id("1e300"), id("18446744073709551615")],
            [Some(7), Some(7), Some(-7), None, None, None, None]
        );
    }

    #[test]
    fn boxes_are_four_finite_numbers() {
        assert_eq!(checked_box(&[Some(1.0), Some(2.0), Some(3.0), Some(0.0)]), Ok([1.0, 2.0, 3.0, 0.0]));
        assert!(checked_box(&[Some(1.0), Some(2.0), Some(3.0)]).unwrap_err().contains("[1, 2, 3]"));
        assert!(checked_box(&[Some(1.0), None, Some(3.0), Some(1.0)]).unwrap_err().contains("null"));
        assert!(checked_box(&[Some(1.0), Some(f64::NAN), Some(3.0), Some(1.0)]).is_err());
        assert!(checked_box(&[Some(1.0), Some(1e300), Some(3.0), Some(1.0)]).is_err());
        assert!(checked_box(&[Some(1.0), Some(1.0), Some(-3.0), Some(1.0)]).is_err());
    }
}
