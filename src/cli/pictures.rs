//! Reading many pictures ahead of the GPU, and going on when one of them is broken.

use indicatif::ProgressBar;
use qdetr::data::image::{self, RgbImage};
use qdetr::{Error, Result};
use rayon::prelude::*;
use std::path::PathBuf;
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
