//! What a run needs to go on: all parameters, moments and counters, and how far it has come, in one file.
//!
//! The file is written beside its place and renamed; the one before is kept as `state.previous.safetensors`. A file that was cut
//! short, by whatever, is refused, and the previous one is used. Tensors are in this crate's layout: this is no model for
//! others, `last.safetensors` is.

use super::distill::Distillation;
use super::loss_scale::LossScale;
use crate::graph::Values;
use crate::quant::Quantization;
use crate::tensor::{DType, Host, Shape, TensorType};
use crate::{Error, Result, files};
use safetensors::tensor::{TensorView, serialize};
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

const STATE: &str = "state.safetensors";
const PREVIOUS: &str = "state.previous.safetensors";
/// The metadata entry of [`Progress`].
const PROGRESS: &str = "qdetr.progress";
/// Before the names of parameters, and of the rest.
const PARAMETER: &str = "parameter.";
const REST: &str = "state.";

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Steps done.
    pub(super) step: u64,
    /// The best AP so far and the epoch it was behind.
    pub(super) best: Option<(u64, f64)>,
    /// Pictures in the training set, and in a batch: with others, steps mean other pictures.
    pub(super) pictures: usize,
    pub(super) batch: usize,
    /// Batches in a step.
    #[serde(default = "one")]
    pub(super) accumulate: usize,
    pub(super) seed: u64,
    #[serde(default)]
    pub(super) loss_scale: LossScale,
    /// What is imitated of a teacher, when there is one.
    #[serde(default)]
    pub(super) distillation: Option<Distillation>,
    /// The low bits of the model, with the signs that were decided when the run began.
    #[serde(default)]
    pub(super) quantization: Option<Quantization>,
}

fn one() -> usize {
    1
}

/// Everything that a run goes on from.
#[derive(Debug)]
pub(super) struct State {
    pub(super) progress: Progress,
    pub(super) parameters: Values,
    pub(super) rest: Values,
}

impl State {
    /// Writes the state into a folder; the one that is there becomes the previous one.
    pub(super) fn save(&self, folder: &Path) -> Result<()> {
        let (path, previous) = (folder.join(STATE), folder.join(PREVIOUS));
        let parameters = self.parameters.iter().map(|(name, host)| (format!("{PARAMETER}{name}"), host));
        let rest = self.rest.iter().map(|(name, host)| (format!("{REST}{name}"), host));
        let views = parameters.chain(rest).map(|(name, host)| Ok((name, view(host)?)));
        let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
        let cannot = |e: &dyn std::fmt::Display| Error::format(&path, format!("cannot be written: {e}"));
        let progress = serde_json::to_string(&self.progress).map_err(|e| cannot(&e))?;
        let metadata = HashMap::from([(PROGRESS.to_owned(), progress)]);
        let bytes = views.and_then(|views| serialize(views, Some(metadata))).map_err(|e| cannot(&e))?;
        // Beside first: on a full disk nothing has moved yet.
        let new = folder.join("state.new.safetensors");
        let written = files::write_whole(&new, |file| file.write_all(&bytes));
        written?;
        if path.is_file() {
            fs::rename(&path, &previous).map_err(Error::io(&path))?;
        }
        fs::rename(&new, &path).map_err(Error::io(&path))
    }

    /// Removes the state before the newest, if there is one.
    pub(super) fn forget_previous(folder: &Path) -> Result<()> {
        let previous = folder.join(PREVIOUS);
        if previous.is_file() { fs::remove_file(&previous).map_err(Error::io(&previous)) } else { Ok(()) }
    }

    /// Reads the state of a folder, or the previous one with the reason why; it holds exactly the given tensors.
    ///
    /// # Errors
    /// When neither can be used: what is wrong with the newer one.
    pub(super) fn load(folder: &Path, parameters: &Types, rest: &Types) -> Result<(Self, Option<String>)> {
        newest(folder, |path| read(path, parameters, rest))
    }
}

/// What `read` makes of the newest state of a folder, or of the previous one with the reason why.
fn newest<T>(folder: &Path, read: impl Fn(&Path) -> Result<T>) -> Result<(T, Option<String>)> {
    let (path, previous) = (folder.join(STATE), folder.join(PREVIOUS));
    match read(&path) {
        Ok(state) => Ok((state, None)),
        Err(error) if previous.is_file() => match read(&previous) {
            Ok(state) => Ok((state, Some(format!("{error}; going on from {}", previous.display())))),
            Err(_) => Err(error),
        },
        Err(_) if !path.exists() => {
            let what = format!("there is no state of a run in {}: start one without --resume", folder.display());
            Err(Error::Config(what))
        }
        Err(error) => Err(error),
    }
}

/// Names and types of tensors.
pub(super) type Types = BTreeMap<String, TensorType>;

fn view(host: &Host) -> Result<TensorView<'_>, safetensors::SafeTensorError> {
    let dtype = match host.dtype() {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::U32 => Dtype::U32,
        DType::I8 => Dtype::I8,
    };
    TensorView::new(dtype, host.shape().dims().to_vec(), host.as_bytes())
}

/// What the state of a run says of its model, before anything is known of it.
#[derive(Clone, Debug)]
pub struct Saved {
    /// Its low bits.
    pub quantization: Option<Quantization>,
    /// All of its parameters, those included that are not trained.
    pub parameters: Values,
}

/// Whether a run in a folder has left something to go on from.
pub(super) fn is_there(folder: &Path) -> bool {
    [STATE, PREVIOUS].iter().any(|name| folder.join(name).is_file())
}

/// Reads what a run in a folder would go on from.
///
/// # Errors
/// When there is no state that can be used.
pub fn saved(folder: &Path) -> Result<Saved> {
    let all = newest(folder, whole)?.0;
    let parameters = all.tensors.into_iter().filter_map(|(name, host)| Some((name.strip_prefix(PARAMETER)?.to_owned(), host)));
    Ok(Saved { quantization: all.progress.quantization, parameters: parameters.collect() })
}

/// A state file as it is, its tensors with their prefixes.
struct Whole {
    progress: Progress,
    tensors: Values,
}

fn whole(path: &Path) -> Result<Whole> {
    let wrong = |what: String| Error::format(path, what);
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let no_state = |e: safetensors::SafeTensorError| wrong(format!("is no whole state of a training run: {e}"));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(no_state)?;
    let file = SafeTensors::deserialize(&bytes).map_err(no_state)?;
    let progress = header.metadata().as_ref().and_then(|m| m.get(PROGRESS)).ok_or_else(|| wrong("is no state of a training run".into()))?;
    let progress = serde_json::from_str(progress).map_err(|e| wrong(format!("has a bad record of its progress: {e}")))?;
    let one = |(name, view): (String, TensorView<'_>)| match Shape::checked(view.shape()) {
        Some(shape) if view.dtype() == Dtype::F32 => Ok((name, Host::from_bytes(TensorType::f32(shape.dims()), view.data()))),
        _ => Err(wrong(format!("`{name}` is {:?} {:?}, which no parameter is", view.dtype(), view.shape()))),
    };
    Ok(Whole { progress, tensors: file.tensors().into_iter().map(one).collect::<Result<_>>()? })
}

fn read(path: &Path, parameters: &Types, rest: &Types) -> Result<State> {
    let wrong = |what: String| Error::format(path, what);
    let Whole { progress, mut tensors } = whole(path)?;
    let found = tensors.len();
    let mut take = |prefix: &str, types: &Types| {
        let one = |(name, &ty): (&String, &TensorType)| {
            let host = tensors.remove(&format!("{prefix}{name}"));
            let host = host.ok_or_else(|| wrong(format!("has no `{name}`: it is of another model")))?;
            if host.ty() == ty { Ok((name.clone(), host)) } else { Err(wrong(format!("`{name}` is {}, the model wants {ty}", host.ty()))) }
        };
        types.iter().map(one).collect::<Result<Values>>()
    };
    let state = State { progress, parameters: take(PARAMETER, parameters)?, rest: take(REST, rest)? };
    match tensors.is_empty() {
        true => Ok(state),
        false => Err(wrong(format!("has {found} tensors, the model wants {}", parameters.len() + rest.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(step: u64) -> State {
        let values = |v: f32| Values::from([("a".to_owned(), Host::f32([2, 1, 1, 3], vec![v; 6]))]);
        let quantization = Some(Quantization::new("4-4-8".parse().unwrap()));
        let progress =
            Progress { step, best: Some((1, 0.5)), pictures: 4, batch: 2, accumulate: 1, seed: 9, quantization, ..Progress::default() };
        State { progress, parameters: values(step as f32), rest: values(0.5) }
    }

    fn types() -> Types {
        Types::from([("a".to_owned(), TensorType::f32([2, 1, 1, 3]))])
    }

    #[test]
    fn a_state_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        state(7).save(folder.path()).unwrap();
        let (found, warning) = State::load(folder.path(), &types(), &types()).unwrap();
        assert!(warning.is_none());
        assert_eq!((found.progress, found.parameters, found.rest), (state(7).progress, state(7).parameters, state(7).rest));
    }

    #[test]
    fn what_a_state_says_of_its_model_is_known_before_the_model() {
        let folder = tempfile::tempdir().unwrap();
        state(7).save(folder.path()).unwrap();
        let found = saved(folder.path()).unwrap();
        assert_eq!((found.quantization, found.parameters), (state(7).progress.quantization, state(7).parameters));
    }

    #[test]
    fn a_state_cut_short_anywhere_is_refused_and_the_previous_one_used() {
        let folder = tempfile::tempdir().unwrap();
        (1..=2).for_each(|step| state(step).save(folder.path()).unwrap());
        let path = folder.path().join(STATE);
        let whole = fs::read(&path).unwrap();
        for length in [0, 4, 8, 40, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            let (found, warning) = State::load(folder.path(), &types(), &types()).unwrap();
            assert_eq!(found.progress.step, 1, "{length}");
            assert!(warning.unwrap().contains(STATE));
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(State::load(folder.path(), &types(), &types()).unwrap().0.progress.step, 1);
    }

    #[test]
    fn a_folder_without_a_state_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let error = State::load(folder.path(), &types(), &types()).unwrap_err().to_string();
        assert!(error.contains("no state of a run") && error.contains("without --resume"), "{error}");
    }

    #[test]
    fn a_state_of_another_model_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        state(1).save(folder.path()).unwrap();
        let other = Types::from([("a".to_owned(), TensorType::f32([6]))]);
        let error = State::load(folder.path(), &other, &types()).unwrap_err().to_string();
        assert!(error.contains("`a`") && error.contains("f32[6]"), "{error}");
        let more = Types::from([("a".to_owned(), TensorType::f32([2, 1, 1, 3])), ("b".to_owned(), TensorType::f32([1]))]);
        assert!(State::load(folder.path(), &more, &types()).is_err());
        assert!(State::load(folder.path(), &Types::new(), &types()).is_err());
    }
}
