//! What the runs of an ablation have in common, and how it is noticed when it changed: numbers of different settings are no table.

use crate::data::Dataset;
use crate::graph::Values;
use crate::train::TrainConfig;
use crate::weights::Fnv;
use crate::{Error, Result};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

/// All that decides what a run finds. Data and weights are told by their sums.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// The configuration of the run, before step sizes are made.
    pub config: TrainConfig,
    /// How step sizes start.
    pub calibration: String,
    /// The float model that it starts from.
    pub start: String,
    /// The float model that it learns from, where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
    /// The pictures that it learns from.
    pub train: String,
    /// The pictures that it is judged on.
    pub validation: String,
}

impl Settings {
    /// As they are kept, to be held against others.
    ///
    /// # Panics
    /// When a number of the configuration is none, which [`TrainConfig::validate`] refuses.
    pub fn value(&self) -> Value {
        serde_json::to_value(self).expect("a valid configuration")
    }
}

/// The sum of a model's parameters: equal for equal ones.
pub fn fingerprint(params: &Values) -> String {
    let mut sum = Fnv::new();
    for (name, host) in params {
        sum.field(name.as_bytes());
        sum.field(host.as_bytes());
    }
    sum.hex()
}

/// The sum of a data set: names and sizes of the pictures, classes, boxes, and what else counts in an evaluation; but neither pixels, nor
/// the folder that the pictures lie in.
pub fn set_fingerprint(set: &Dataset) -> String {
    let mut sum = Fnv::new();
    set.categories.names().iter().for_each(|name| sum.field(name.as_bytes()));
    for record in &set.images {
        sum.field(record.path.file_name().unwrap_or_default().as_encoded_bytes());
        [record.id.to_le_bytes(), u64::from(record.width).to_le_bytes(), u64::from(record.height).to_le_bytes()]
            .iter()
            .for_each(|number| sum.field(number));
        for object in &record.objects {
            object.original.iter().chain([&object.area]).for_each(|number| sum.field(&number.to_le_bytes()));
            sum.field(&(object.label as u64).to_le_bytes());
            sum.field(&[u8::from(object.crowd), u8::from(object.difficult)]);
        }
    }
    sum.hex()
}

/// Refuses what was found with other settings.
///
/// # Errors
/// [`Error::Config`] naming the first setting that differs.
pub(super) fn check(folder: &Path, then: &Value, now: &Value) -> Result<()> {
    let Some((name, then, now)) = difference(then, now) else { return Ok(()) };
    let folder = folder.display();
    Err(Error::Config(format!(
        "{folder} was made with other settings: `{name}` was {then}, and is {now} now; choose another folder with --out, or delete this one"
    )))
}

/// The first setting that differs, with its two values.
fn difference(then: &Value, now: &Value) -> Option<(String, String, String)> {
    if then == now {
        return None;
    }
    let (Some(a), Some(b)) = (then.as_object(), now.as_object()) else {
        return Some((String::new(), then.to_string(), now.to_string()));
    };
    let name = a.keys().chain(b.keys()).find(|&name| a.get(name) != b.get(name))?;
    let side = |map: &serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or(Value::Null);
    let (inner, then, now) = difference(&side(a), &side(b))?;
    Some((if inner.is_empty() { name.clone() } else { format!("{name}.{inner}") }, then, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Host;
    use serde_json::json;

    #[test]
    fn the_first_difference_is_named() {
        let one = json!({ "config": { "lr": 0.1, "model": { "ffn": 2 } }, "start": "a" });
        check(Path::new("x"), &one, &one.clone()).unwrap();
        let text = |now: Value| check(Path::new("out/lsq"), &one, &now).unwrap_err().to_string();
        let found = text(json!({ "config": { "lr": 0.2, "model": { "ffn": 2 } }, "start": "b" }));
        assert!(found.contains("out/lsq was made") && found.contains("`config.lr` was 0.1, and is 0.2 now"), "{found}");
        let found = text(json!({ "config": { "lr": 0.1, "model": { "ffn": 2, "new": true } }, "start": "a" }));
        assert!(found.contains("`config.model.new` was null, and is true now"), "{found}");
        assert!(text(json!(null)).contains("--out"));
    }

    #[test]
    fn models_that_differ_in_a_number_a_name_or_a_border_have_other_sums() {
        let values = |list: &[(&str, &[f32])]| -> Values {
            list.iter().map(|&(name, v)| (name.to_owned(), Host::f32([v.len()], v.to_vec()))).collect()
        };
        let all = [
            values(&[("a", &[1.0, 2.0]), ("b", &[3.0])]),
            values(&[("a", &[1.0, 2.5]), ("b", &[3.0])]),
            values(&[("a", &[1.0]), ("b", &[2.0, 3.0])]),
            values(&[("a", &[1.0, 2.0]), ("c", &[3.0])]),
        ];
        let mut sums: Vec<String> = all.iter().map(fingerprint).collect();
        assert_eq!(sums[0], fingerprint(&all[0].clone()));
        sums.sort();
        sums.dedup();
        assert_eq!(sums.len(), 4);
    }
}
