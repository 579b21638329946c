//! What is wrong with a set of annotations: counted, named by file and id, skipped or fatal.

use crate::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// What to do about annotation mistakes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strictness {
    /// Leave out what is wrong, report it, go on.
    #[default]
    Skip,
    /// The first mistake ends the run.
    Fatal,
}

/// The kinds of annotation mistakes, each with what happens to it under [`Strictness::Skip`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A record without a field that it needs, or with a value of another type: left out.
    Malformed,
    /// An id that was seen before: the later record is left out.
    DuplicateId,
    /// An annotation for an image that the file does not list: left out.
    UnknownImage,
    /// An annotation of a class that the file, or the model, does not know: left out.
    UnknownCategory,
    /// An image or annotation file that does not exist: the image is left out.
    MissingFile,
    /// A box with an element that is no finite number or beyond all pictures, or with a negative size: left out.
    BadBox,
    /// A box of no width or height: never trained on, kept for evaluation as the reference evaluators do.
    EmptyBox,
    /// A box that leaves its image by more than a pixel: clipped for training, kept as it is for evaluation.
    OutsideBox,
    /// An annotation with the id 0: pycocotools takes a detection matched with it for unmatched, and so do we.
    ZeroId,
}

impl Kind {
    fn plural(self) -> &'static str {
        match self {
            Self::Malformed => "malformed records",
            Self::DuplicateId => "duplicate ids",
            Self::UnknownImage => "annotations of unknown images",
            Self::UnknownCategory => "annotations of unknown categories",
            Self::MissingFile => "missing files",
            Self::BadBox => "impossible boxes",
            Self::EmptyBox => "boxes without area",
            Self::OutsideBox => "boxes outside their image",
            Self::ZeroId => "annotations with id 0",
        }
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Issue {
    /// The file that it is in.
    pub file: PathBuf,
    /// The record: `annotation 17`, `object 2`, by id where there is one, else by position.
    pub item: String,
    /// What sort of mistake.
    pub kind: Kind,
    /// What was expected and what was found.
    pub what: String,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.file.display(), self.item, self.what)
    }
}

/// All mistakes of a set of annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The first [`Report::KEPT`] mistakes of each kind, in the order of the files.
    pub issues: Vec<Issue>,
    /// How many there are of each kind, all of them counted.
    pub counts: BTreeMap<Kind, usize>,
}

impl Report {
    /// How many mistakes of a kind are kept with their text: a file of a million mistakes must not fill the memory.
    pub const KEPT: usize = 100;

    /// Counts a mistake; the text is made only when it is kept.
    pub(crate) fn add(&mut self, kind: Kind, file: &Path, item: impl FnOnce() -> String, what: impl FnOnce() -> String) {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        if *count <= Self::KEPT {
            self.issues.push(Issue { file: file.to_owned(), item: item(), kind, what: what() });
        }
    }

    /// How many mistakes of all kinds.
    pub fn total(&self) -> usize {
        self.counts.values().sum()
    }

    /// How many mistakes of one kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    /// Passes unless there are mistakes and they are fatal.
    ///
    /// # Errors
    /// [`Error::Format`] with the first mistake and the number of the others.
    pub(crate) fn judge(&self, strictness: Strictness) -> Result<()> {
        match (strictness, self.issues.first()) {
            (Strictness::Fatal, Some(first)) => {
                let others = self.total() - 1;
                let more = if others > 0 { format!(" (and {others} more mistakes)") } else { String::new() };
                Err(Error::format(&first.file, format!("{}: {}{more}", first.item, first.what)))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Report {
    /// One line: the counts by kind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.counts.is_empty() {
            return f.write_str("no annotation mistakes");
        }
        let parts: Vec<_> = self.counts.iter().map(|(kind, count)| format!("{count} {}", kind.plural())).collect();
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(kind: Kind, n: usize) -> Report {
        let mut report = Report::default();
        for i in 0..n {
            report.add(kind, Path::new("a.json"), || format!("annotation {i}"), || "is wrong".into());
        }
        report
    }

    #[test]
    fn all_are_counted_and_the_first_are_kept() {
        let mut report = filled(Kind::BadBox, Report::KEPT + 5);
        report.add(Kind::EmptyBox, Path::new("a.json"), || "annotation 7".into(), || "is empty".into());
        assert_eq!(
            (report.total(), report.count(Kind::BadBox), report.issues.len()),
            (Report::KEPT + 6, Report::KEPT + 5, Report::KEPT + 1)
        );
        assert_eq!(report.to_string(), "105 impossible boxes, 1 boxes without area");
        assert_eq!(report.issues.last().unwrap().to_string(), "a.json: annotation 7: is empty");
    }

    #[test]
    fn mistakes_are_fatal_only_when_asked() {
        let report = filled(Kind::UnknownImage, 3);
        assert!(report.judge(Strictness::Skip).is_ok());
        assert!(Report::default().judge(Strictness::Fatal).is_ok());
        let error = report.judge(Strictness::Fatal).unwrap_err();
        assert_eq!(error.to_string(), "a.json: annotation 0: is wrong (and 2 more mistakes)");
    }
}
