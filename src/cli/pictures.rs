//! Reading many pictures ahead of the GPU, and going on when one of them is broken.

use indicatif::ProgressBar;
use qdetr::data::image::{self, RgbImage};
use qdetr::{Error, Result};
use rayon::prelude::*;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

/// Batches that are read while the GPU works on one.
const AHEAD: usize = 2;

/// A picture file, read.
pub(crate) struct Picture<T> {
    /// Its place among all that were asked for, the broken ones included.
    pub(crate) index: usize,
    pub(crate) path: PathBuf,
    /// What was made of it.
    pub(crate) content: T,
}

/// The files that arguments name, folders replaced by the pictures in them; and whether some could not be found, which is
/// reported here.
///
/// # Errors
/// The first of these when nothing is left.
pub(crate) fn expand(arguments: &[PathBuf]) -> Result<(Vec<PathBuf>, usize)> {
    let (mut paths, mut errors) = (Vec::new(), Vec::new());
    for argument in arguments {
        match image::list(argument) {
            Ok(found) => paths.extend(found),
            Err(error) => errors.push(error),
        }
    }
    if paths.is_empty() && !errors.is_empty() {
        return Err(errors.remove(0));
    }
    errors.iter().for_each(|error| eprintln!("error: {error}"));
    Ok((paths, errors.len()))
}

/// Reads pictures on all cores, turns each into what `prepare` makes of it, and gives them to `work` in batches and in order.
/// Those that cannot be read are reported and left out; returns their number.
///
/// # Errors
/// The first error of `work`.
pub(crate) fn for_each_batch<T: Send>(
    paths: &[PathBuf],
    batch: usize,
    bar: &ProgressBar,
    prepare: impl Fn(RgbImage) -> T + Sync,
    mut work: impl FnMut(Vec<Picture<T>>) -> Result<()>,
) -> Result<usize> {
    let (send, receive) = sync_channel(AHEAD);
    let mut broken = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| read_all(paths, batch, &prepare, send));
        // The iterator is dropped when `work` fails; then the reader stops too.
        for read in receive {
            let count = read.len();
            let (good, bad): (Vec<_>, Vec<_>) = read.into_iter().partition(Result::is_ok);
            broken += bad.len();
            bar.suspend(|| bad.into_iter().filter_map(Result::err).for_each(|error| eprintln!("error: {error}")));
            let good: Vec<Picture<T>> = good.into_iter().flatten().collect();
            if !good.is_empty() {
                work(good)?;
            }
            bar.inc(count as u64);
        }
        Ok(broken)
    })
}

type Read<T> = Result<Picture<T>, Error>;

fn read_all<T: Send>(paths: &[PathBuf], batch: usize, prepare: &(impl Fn(RgbImage) -> T + Sync), send: SyncSender<Vec<Read<T>>>) {
    for (i, paths) in paths.chunks(batch).enumerate() {
        let read = |(j, path): (usize, &PathBuf)| {
            let content = prepare(image::read(path)?);
            Ok(Picture { index: i * batch + j, path: path.clone(), content })
        };
        let batch: Vec<Read<T>> = paths.par_iter().enumerate().map(read).collect();
        if send.send(batch).is_err() {
            return;
        }
    }
}

/// Where each picture's drawing goes: JPEG stays JPEG, all else becomes PNG, and equal names get a number.
///
/// # Errors
/// [`Error::Usage`] when a drawing could overwrite a picture, [`Error::Io`] when the folder cannot be made.
pub(crate) fn drawings(folder: &Path, paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let real = folder.canonicalize().map_err(Error::io(folder))?;
    let is_inside = |path: &PathBuf| path.canonicalize().is_ok_and(|path| path.parent() == Some(&real));
    if let Some(path) = paths.iter().find(|path| is_inside(path)) {
        let what = format!("--out {} holds {}: choose another folder, so that no picture is overwritten", folder.display(), path.display());
        return Err(Error::Usage(what));
    }
    let mut taken = HashSet::new();
    let name = |path: &PathBuf| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let extension = if matches!(extension.as_str(), "jpg" | "jpeg") { "jpg" } else { "png" };
        let mut name = format!("{stem}.{extension}");
        for i in 2.. {
            if taken.insert(name.clone()) {
                break;
            }
            name = format!("{stem}-{i}.{extension}");
        }
        folder.join(name)
    };
    Ok(paths.iter().map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawings_do_not_collide_and_spare_the_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let paths = ["a/x.jpg", "b/x.jpeg", "c/x.webp", "d/x.jpg"].map(PathBuf::from);
        let names = drawings(&out, &paths).unwrap();
        assert_eq!(names, ["x.jpg", "x-2.jpg", "x.png", "x-3.jpg"].map(|n| out.join(n)));
        let inside = out.join("photo.jpg");
        std::fs::write(&inside, b"").unwrap();
        assert!(matches!(drawings(&out, &[inside]), Err(Error::Usage(_))));
    }
}
