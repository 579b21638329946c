//! Holding a checkpoint against what a model wants.

use super::Checkpoint;
use super::raw::{quoted, torch_dims};
use crate::tensor::{Data, Host, Shape};
use crate::{Error, Result};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What to do with tensors that the model does not want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extras {
    /// An error: the checkpoint is of another model. What only training needs is left out.
    Refuse,
    /// Leave them out: the classifier of an ImageNet backbone, the transformer when only the backbone is wanted.
    Ignore,
}

/// Parameters that a model has only while it is trained: a checkpoint may hold them, a detector leaves them out.
const TRAINING_ONLY: [&str; 1] = ["query_embed_groups.weight"];

/// Takes from a checkpoint what a model wants, given as names and shapes of our layout. Element types stay as they were stored.
///
/// A detector's are [`wants`](crate::models::detector::wants); for any network they are
/// `net.specs().iter().map(|(name, spec)| (name, spec.shape))`. To load only a backbone, ask for its parameters alone, those
/// below `backbone.`, with [`Extras::Ignore`].
///
/// # Errors
/// [`Error::Weights`] that lists everything missing, extra and misshapen, and [`Error::NotFinite`] that names the tensors that
/// hold a NaN or an infinity; both shorten long lists.
pub fn fit(
    checkpoint: Checkpoint,
    wants: impl IntoIterator<Item = (impl AsRef<str>, Shape)>,
    extras: Extras,
) -> Result<BTreeMap<String, Host>> {
    let Checkpoint { mut tensors, dialect, source: path, .. } = checkpoint;
    let mut fitting = BTreeMap::new();
    let (mut missing, mut extra, mut misshapen) = (Vec::new(), Vec::new(), Vec::new());
    for (name, shape) in wants {
        let name = name.as_ref();
        match tensors.remove_entry(name) {
            None => {
                let theirs = dialect.from_canonical(name).filter(|place| place.name != name);
                let theirs = theirs.map(|place| format!(", {} in the names of {dialect}", quoted(&place.name))).unwrap_or_default();
                missing.push(format!("missing {} {:?}{theirs}", quoted(name), torch_dims(shape)));
            }
            Some((name, tensor)) if tensor.shape() != shape => {
                let (found, wanted) = (torch_dims(tensor.shape()), torch_dims(shape));
                misshapen.push(format!("misshapen {}: the file has {found:?}, the model wants {wanted:?}", quoted(&name)));
            }
            Some((name, tensor)) => {
                fitting.insert(name, tensor);
            }
        }
    }
    tensors.retain(|name, _| !TRAINING_ONLY.contains(&name.as_str()));
    if extras == Extras::Refuse {
        extra.extend(tensors.iter().map(|(name, tensor)| format!("extra {} {:?}", quoted(name), torch_dims(tensor.shape()))));
    }
    let lines: Vec<String> = [missing, extra, misshapen].into_iter().flat_map(shorten).collect();
    if !lines.is_empty() {
        return Err(Error::Weights { path, what: lines.join("\n") });
    }
    match not_finite(&fitting) {
        Some(what) => Err(Error::NotFinite(format!("{}: the weights hold NaN or infinity: {what}", path.display()))),
        None => Ok(fitting),
    }
}

/// Lines that a screen can show, sorted; what is left out is counted.
fn shorten(mut lines: Vec<String>) -> Vec<String> {
    const SHOWN: usize = 8;
    lines.sort();
    if lines.len() > SHOWN + 1 {
        let word = lines[0].split(' ').next().unwrap_or_default().to_owned();
        let more = lines.len() - SHOWN;
        lines.truncate(SHOWN);
        lines.push(format!("… and {more} more {word}"));
    }
    lines
}

/// Names the tensors that are not finite, on one line.
fn not_finite(tensors: &BTreeMap<String, Host>) -> Option<String> {
    let bad = |(name, tensor): (&String, &Host)| {
        let count = match tensor.data() {
            Data::F32(v) => v.iter().filter(|x| !x.is_finite()).count(),
            Data::F16(v) => v.iter().filter(|x| !x.is_finite()).count(),
            Data::U32(_) | Data::I8(_) => 0,
        };
        (count > 0).then(|| format!("{} ({count} of {} values)", quoted(name), tensor.shape().len()))
    };
    let all: Vec<String> = tensors.par_iter().filter_map(bad).collect();
    let (first, rest) = all.split_at(all.len().min(4));
    let mut what = first.join(", ");
    if !rest.is_empty() {
        write!(what, " and {} more tensors", rest.len()).ok();
    }
    (!all.is_empty()).then_some(what)
}
