//! What detections are compared with: all annotations of a set of images, boxes as the files have them.

use crate::Result;
use crate::data::coco::{self, Annotation};
use crate::data::{Dataset, Options, Report, Strictness};
use std::path::Path;

/// The images, classes and annotations of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct GroundTruth {
    images: Vec<i64>,
    categories: Vec<(i64, String)>,
    annotations: Vec<Annotation>,
}

impl GroundTruth {
    /// Images by id, classes by id and name, and the objects on them. Annotations of images or classes that are not among
    /// them are left out, as pycocotools does; classes come in the order of their ids.
    pub fn new(images: Vec<i64>, categories: Vec<(i64, String)>, annotations: Vec<Annotation>) -> Self {
        let (mut images, mut categories, mut annotations) = (images, categories, annotations);
        images.sort_unstable();
        images.dedup();
        categories.sort_by_key(|c| c.0);
        categories.dedup_by_key(|c| c.0);
        annotations
            .retain(|a| images.binary_search(&a.image_id).is_ok() && categories.binary_search_by_key(&a.category_id, |c| c.0).is_ok());
        Self { images, categories, annotations }
    }

    /// Reads a COCO annotation file, or the one split of a data set's folder. Pictures are not needed for a file.
    ///
    /// # Errors
    /// As [`Dataset::open_with`]; mistakes in the annotations go into the report unless they are fatal.
    pub fn read(path: impl AsRef<Path>, strictness: Strictness) -> Result<(Self, Report)> {
        let path = path.as_ref();
        if path.is_dir() {
            let set = Dataset::open_with(path, None, &Options { strictness, categories: None })?;
            return Ok((Self::of(&set), set.report));
        }
        let mut report = Report::default();
        let coco::Records { categories, images, annotations } = coco::read(path, &mut report)?;
        report.judge(strictness)?;
        Ok((Self::new(images.iter().map(|i| i.id).collect(), categories, annotations), report))
    }

    /// The ground truth of a data set, crowds and difficult objects included; class ids are those of its
    /// [`Categories`](crate::data::Categories).
    pub fn of(set: &Dataset) -> Self {
        let ids = set.categories.ids();
        let annotations = set.images.iter().flat_map(|image| {
            image.objects.iter().map(|o| Annotation {
                id: o.id,
                image_id: image.id,
                category_id: ids[o.label],
                bbox: o.original,
                area: o.area,
                crowd: o.crowd,
                difficult: o.difficult,
            })
        });
        let categories = ids.iter().copied().zip(set.categories.names().iter().cloned()).collect();
        Self::new(set.images.iter().map(|i| i.id).collect(), categories, annotations.collect())
    }

    /// Image ids, rising.
    pub fn images(&self) -> &[i64] {
        &self.images
    }

    /// Ids and names of the classes, ids rising.
    pub fn categories(&self) -> &[(i64, String)] {
        &self.categories
    }

    /// The annotated objects, in the order of the file.
    pub fn annotations(&self) -> &[Annotation] {
        &self.annotations
    }
}
