//! Finds out what a path is: a COCO file or folder, or a PASCAL VOC folder, as people download and unpack them.

use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// An annotation file, and the folders where its pictures may be, the likeliest first.
    Coco { annotations: PathBuf, folders: Vec<PathBuf> },
    /// Folders in VOC's layout, and the split; without one, every annotation.
    Voc { folders: Vec<PathBuf>, split: Option<String> },
}

/// Looks at a path; see [`super::Dataset::open_with`] for what is understood.
pub(super) fn find(path: &Path, split: Option<&str>) -> Result<Source> {
    let kind = fs::metadata(path).map_err(Error::io(path))?;
    if kind.is_file() {
        return Ok(coco(path.to_owned()));
    }
    if let Some(source) = find_voc(path, split)? {
        return Ok(source);
    }
    find_coco(path, split)
}

/// The annotation file with its picture folders.
fn coco(annotations: PathBuf) -> Source {
    let here = annotations.parent().unwrap_or(Path::new("")).to_owned();
    let stem = annotations.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let split = stem.strip_prefix("instances_").unwrap_or(&stem);
    let in_annotations = here.file_name().is_some_and(|n| n == "annotations");
    let root = if in_annotations { here.parent().unwrap_or(Path::new("")).to_owned() } else { here.clone() };
    let mut folders = vec![root.join(split), root.join("images").join(split), root.join("images"), root];
    if in_annotations {
        folders.push(here);
    }
    Source::Coco { annotations, folders }
}

fn is_voc(folder: &Path) -> bool {
    folder.join("Annotations").is_dir()
}

fn find_voc(path: &Path, split: Option<&str>) -> Result<Option<Source>> {
    let years = if is_voc(path) { vec![path.to_owned()] } else { entries(path)?.into_iter().filter(|p| is_voc(p)).collect() };
    if years.is_empty() {
        return Ok(None);
    }
    let list = |year: &Path, split: &str| year.join("ImageSets").join("Main").join(format!("{split}.txt")).is_file();
    let splits = || ["train", "val", "trainval", "test"].into_iter().filter(|s| years.iter().any(|y| list(y, s)));
    let Some(split) = split else {
        let splits: Vec<_> = splits().collect();
        return match splits.as_slice() {
            [] => Ok(Some(Source::Voc { folders: years, split: None })),
            [only] => Ok(Some(Source::Voc { split: Some((*only).into()), folders: years })),
            many => Err(Error::Usage(format!("{}: name the split; there are {}", path.display(), many.join(", ")))),
        };
    };
    let folders: Vec<_> = years.iter().filter(|y| list(y, split)).cloned().collect();
    if folders.is_empty() {
        let known: Vec<_> = splits().collect();
        let what =
            format!("no ImageSets/Main/{split}.txt; splits found: {}", if known.is_empty() { "none".into() } else { known.join(", ") });
        return Err(Error::format(path, what));
    }
    Ok(Some(Source::Voc { folders, split: Some(split.into()) }))
}

/// The annotation files of a folder with the name of their split.
fn coco_files(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for folder in [path.join("annotations"), path.to_owned()] {
        if !folder.is_dir() {
            continue;
        }
        for entry in entries(&folder)? {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let roboflow = entry.join("_annotations.coco.json");
            if let Some(split) = name.strip_prefix("instances_").and_then(|n| n.strip_suffix(".json")) {
                found.push((split.to_owned(), entry));
            } else if roboflow.is_file() {
                found.push((name, roboflow));
            } else if let Some(split @ ("train" | "val" | "valid" | "test")) = name.strip_suffix(".json") {
                found.push((split.to_owned(), entry));
            }
        }
    }
    Ok(found)
}

fn find_coco(path: &Path, split: Option<&str>) -> Result<Source> {
    let files = coco_files(path)?;
    if files.is_empty() {
        let what = "no data set found here: expected COCO's annotations/instances_*.json or VOC's Annotations and ImageSets/Main";
        return Err(Error::format(path, what));
    }
    let names = || files.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let Some(split) = split else {
        return match files.as_slice() {
            [(_, only)] => Ok(coco(only.clone())),
            _ => Err(Error::Usage(format!("{}: name the split; there are {}", path.display(), names()))),
        };
    };
    // `train` is `train2017` where there is only one such year.
    let exact: Vec<_> = files.iter().filter(|(name, _)| name == split).collect();
    let year = |name: &str| name.strip_prefix(split).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
    let chosen = if exact.is_empty() { files.iter().filter(|(name, _)| year(name)).collect() } else { exact };
    match chosen.as_slice() {
        [(_, one)] => Ok(coco(one.clone())),
        [] => Err(Error::format(path, format!("no split `{split}`; there are {}", names()))),
        _ => Err(Error::Usage(format!("{}: several files fit the split `{split}`: {}; give the file", path.display(), names()))),
    }
}

/// What lies in a folder, sorted.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let mut found = read().map_err(Error::io(folder))?;
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        root
    }

    fn annotations(root: &Path, split: Option<&str>) -> String {
        match find(root, split) {
            Ok(Source::Coco { annotations, .. }) => annotations.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn coco_files_are_found_by_split() {
        let t = tree(&["annotations/instances_train2017.json", "annotations/instances_val2017.json", "annotations/captions_val2017.json"]);
        assert_eq!(annotations(t.path(), Some("train")), "annotations/instances_train2017.json");
        assert_eq!(annotations(t.path(), Some("val2017")), "annotations/instances_val2017.json");
        assert!(annotations(t.path(), None).contains("train2017, val2017"));
        assert!(annotations(t.path(), Some("test")).contains("no split `test`"));
        let t = tree(&["instances_train.json"]);
        assert_eq!(annotations(t.path(), None), "instances_train.json");
        let t = tree(&["train/_annotations.coco.json", "valid/_annotations.coco.json"]);
        assert_eq!(annotations(t.path(), Some("valid")), "valid/_annotations.coco.json");
        let t = tree(&["annotations/instances_val2014.json", "annotations/instances_val2017.json"]);
        assert!(annotations(t.path(), Some("val")).contains("several files"));
    }

    #[test]
    fn pictures_are_looked_for_where_people_keep_them() {
        let Source::Coco { folders, .. } = coco("d/annotations/instances_val2017.json".into()) else { panic!() };
        assert_eq!(folders, ["d/val2017", "d/images/val2017", "d/images", "d", "d/annotations"].map(PathBuf::from));
        let Source::Coco { folders, .. } = coco("instances_val.json".into()) else { panic!() };
        assert_eq!(folders, ["val", "images/val", "images", ""].map(PathBuf::from));
    }

    #[test]
    fn voc_years_are_joined() {
        let t = tree(&[
            "VOC2007/Annotations/a.xml",
            "VOC2007/ImageSets/Main/trainval.txt",
            "VOC2007/ImageSets/Main/test.txt",
            "VOC2012/Annotations/b.xml",
            "VOC2012/ImageSets/Main/trainval.txt",
        ]);
        let years = |split| match find(t.path(), Some(split)) {
            Ok(Source::Voc { folders, .. }) => folders.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!((years("trainval"), years("test")), (2, 1));
        assert!(find(t.path(), Some("val")).unwrap_err().to_string().contains("trainval, test"));
        assert!(matches!(find(t.path(), None), Err(Error::Usage(_))));
        let t = tree(&["Annotations/a.xml"]);
        assert_eq!(find(t.path(), None).unwrap(), Source::Voc { folders: vec![t.path().to_owned()], split: None });
    }

    #[test]
    fn a_folder_with_nothing_says_what_was_expected() {
        let error = find(tree(&["a.txt"]).path(), None).unwrap_err().to_string();
        assert!(error.contains("instances_*.json"), "{error}");
        assert!(matches!(find(Path::new("/does/not/exist"), None), Err(Error::Io { .. })));
    }
}
