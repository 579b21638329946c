//! What is kept of the runs of an ablation, so that a command that is repeated does nothing twice.
//!
//! | file | what it is |
//! | --- | --- |
//! | `METHOD-BITS-SEED/settings.json` | what the run is made of, written before its first step |
//! | `METHOD-BITS-SEED/result.json` | what it found, and its settings: there when it is finished |
//! | `real-valued.json` | what the float model finds on the same pictures |

use super::Variant;
use super::settings::check;
use crate::eval::Summary;
use crate::train::{Best, Outcome, resume};
use crate::{Error, Result, files, weights};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;
use std::path::Path;

const SETTINGS: &str = "settings.json";
const RESULT: &str = "result.json";
/// The most that is read of such a file.
const MAX_BYTES: u64 = 1 << 24;

/// What a finished run found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Which run.
    #[serde(flatten)]
    pub variant: Variant,
    /// Updates of the parameters.
    pub steps: u64,
    /// Seconds of training, evaluations between epochs included.
    pub seconds: f64,
    /// COCO's numbers of the model behind the last epoch: what the table is about, for nothing was chosen by looking at these pictures.
    pub last: Summary,
    /// The best AP of all evaluations, which is chosen by looking.
    pub best: Best,
    /// What it was made of.
    pub settings: Value,
}

/// How the float model does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RealValued {
    /// COCO's numbers.
    pub summary: Summary,
    /// The model and the pictures.
    pub settings: Value,
}

/// How far a run has come.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Nothing is there.
    New,
    /// It was interrupted and has left a state to go on from.
    Begun,
    /// It is done.
    Finished(Box<Record>),
}

/// How far the run in a folder has come.
///
/// # Errors
/// [`Error::Config`] when it was made with other settings, or is no run of an ablation; a file that cannot be read.
pub fn standing(folder: &Path, settings: &Value) -> Result<Standing> {
    if let Some(record) = kept::<Record>(&folder.join(RESULT), |record| check(folder, &record.settings, settings))? {
        return Ok(Standing::Finished(Box::new(record)));
    }
    if !resume::is_there(folder) {
        return Ok(Standing::New);
    }
    match kept::<Value>(&folder.join(SETTINGS), |theirs| check(folder, theirs, settings))? {
        Some(_) => Ok(Standing::Begun),
        None => {
            let what = format!("{} holds a training run that is none of an ablation: choose another --out", folder.display());
            Err(Error::Config(what))
        }
    }
}

/// How the float model does, as it is kept in the ablation's folder, or else as `evaluate` finds.
///
/// # Errors
/// [`Error::Config`] when it was evaluated with other settings; [`Error::Io`]; those of `evaluate`.
pub fn real_valued(out: &Path, settings: &Value, evaluate: impl FnOnce() -> Result<Summary>) -> Result<RealValued> {
    let path = out.join("real-valued.json");
    if let Some(found) = kept::<RealValued>(&path, |found| check(&path, &found.settings, settings))? {
        return Ok(found);
    }
    let found = RealValued { summary: evaluate()?, settings: settings.clone() };
    fs::create_dir_all(out).map_err(Error::io(out))?;
    keep(&path, &found)?;
    Ok(found)
}

/// Notes what a run is made of, in its folder.
///
/// # Errors
/// [`Error::Io`].
pub fn begin(folder: &Path, settings: &Value) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    keep(&folder.join(SETTINGS), settings)
}

/// Notes what a run has found, in its folder.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] when the run left no evaluation.
pub fn finish(folder: &Path, variant: Variant, outcome: Outcome, settings: &Value) -> Result<Record> {
    let (steps, seconds) = (outcome.steps, seconds(folder)?);
    // A run that was stopped between its last evaluation and this has that in its model.
    let last = outcome.last.map_or_else(|| found_earlier(folder), Ok)?;
    let best = outcome.best.ok_or_else(|| Error::format(folder, "the run was never evaluated"))?;
    let record = Record { variant, steps, seconds, last, best, settings: settings.clone() };
    keep(&folder.join(RESULT), &record)?;
    Ok(record)
}

/// The numbers that a run has written into its last model.
fn found_earlier(folder: &Path) -> Result<Summary> {
    let path = folder.join("last.safetensors");
    let metrics = weights::load(&path)?.metadata.remove("qdetr.metrics");
    let metrics = metrics.ok_or_else(|| Error::format(&path, "has no metrics: the run was not evaluated at its end"))?;
    serde_json::from_str(&metrics).map_err(|e| Error::format(&path, format!("has bad metrics: {e}")))
}

/// What is kept in a file, if it is there and `accept` has nothing against it.
fn kept<T: DeserializeOwned>(path: &Path, accept: impl Fn(&T) -> Result<()>) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = files::read_text(path, MAX_BYTES)?;
    let found: T = serde_json::from_str(&text).map_err(|e| Error::format(path, format!("is none of our records: {e}; delete it")))?;
    accept(&found)?;
    Ok(Some(found))
}

fn keep(path: &Path, record: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(record).map_err(|e| Error::format(path, format!("cannot be written: {e}")))?;
    files::write_whole(path, |file| writeln!(file, "{json}"))
}

/// Seconds that the log of a run tells of: each process that worked on it counts from 0.
fn seconds(folder: &Path) -> Result<f64> {
    let path = folder.join("log.jsonl");
    let log = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let times = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["seconds"].as_f64());
    let (before, last) = times.fold((0.0, 0.0), |(before, last), now| if now < last { (before + last, now) } else { (before, now) });
    Ok(before + last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn seconds_of_all_processes_are_added() {
        let folder = tempfile::tempdir().unwrap();
        let log = "{\"seconds\":1.5}\n{\"seconds\":4.0}\n{\"validation\":{}}\n{\"seconds\":0.5}\n{\"seconds\":2.0}\n{\"sec";
        fs::write(folder.path().join("log.jsonl"), log).unwrap();
        assert_eq!(seconds(folder.path()).unwrap(), 6.0);
    }

    #[test]
    fn a_folder_is_new_begun_or_somebody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, settings) = (folder.path().join("run"), json!({ "lr": 1 }));
        assert_eq!(standing(&folder, &settings).unwrap(), Standing::New);
        begin(&folder, &settings).unwrap();
        assert_eq!(standing(&folder, &json!({ "lr": 2 })).unwrap(), Standing::New);
        fs::write(folder.join("state.safetensors"), "").unwrap();
        assert_eq!(standing(&folder, &settings).unwrap(), Standing::Begun);
        assert!(standing(&folder, &json!({ "lr": 2 })).unwrap_err().to_string().contains("`lr` was 1, and is 2 now"));
        fs::remove_file(folder.join(SETTINGS)).unwrap();
        assert!(standing(&folder, &settings).unwrap_err().to_string().contains("none of an ablation"));
        fs::write(folder.join(RESULT), "{}").unwrap();
        assert!(standing(&folder, &settings).unwrap_err().to_string().contains("delete it"));
    }
}
