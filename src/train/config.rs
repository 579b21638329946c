//! What a training run is: the part of a command line that belongs in a file.

use crate::data::augment::{Recipe, SmallRecipe};
use crate::data::preprocess::{Resize, Size};
use crate::models::ModelConfig;
use crate::{Error, Result, files};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The most that is read of a configuration file.
const MAX_BYTES: u64 = 1 << 20;

/// The most groups of auxiliary queries: H-DETR has five.
const MOST_GROUPS: usize = 32;

/// Height and width in pixels.
pub type HeightWidth = (usize, usize);

/// A training run. Everything but the model has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The model; its classes are those of the data set, whatever is written here.
    pub model: ModelConfig,
    /// Sizes that batches are padded to, `[height, width]`; the first is that of validation.
    #[serde(default = "default::sizes")]
    pub sizes: Vec<HeightWidth>,
    /// How pictures are varied. Without it, flips, crops and colours at the first size.
    #[serde(default)]
    pub augmentation: Option<Recipe>,
    /// Pictures in a batch.
    #[serde(default = "default::batch")]
    pub batch: usize,
    /// Epochs.
    #[serde(default = "default::epochs")]
    pub epochs: u64,
    /// Epochs between evaluations; 0 evaluates only at the end.
    #[serde(default = "default::evaluate_every")]
    pub evaluate_every: u64,
    /// Learning rate, AdamW's.
    #[serde(default = "default::lr")]
    pub lr: f64,
    /// Learning rate of the backbone.
    #[serde(default = "default::lr_backbone")]
    pub lr_backbone: f64,
    /// AdamW's decay of weights.
    #[serde(default = "default::weight_decay")]
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm.
    #[serde(default = "default::clip")]
    pub clip: f64,
    /// The share of elements that are dropped in the transformer.
    #[serde(default = "default::dropout")]
    pub dropout: f32,
    /// Groups of auxiliary queries, each as many as the model has; matched on their own, and gone when the model is used.
    #[serde(default)]
    pub query_groups: usize,
    /// Steps over which the learning rate rises from 0.
    #[serde(default)]
    pub warmup: u64,
    /// Parts of the whole run, 0 to 1, after which the learning rate is divided by ten.
    #[serde(default = "default::drops")]
    pub drops: Vec<f64>,
    /// Beginnings of the names of parameters that are not trained.
    #[serde(default)]
    pub freeze: Vec<String>,
    /// Of everything random.
    #[serde(default)]
    pub seed: u64,
}

mod default {
    pub(super) fn sizes() -> Vec<super::HeightWidth> {
        vec![(480, 640)]
    }

    pub(super) fn batch() -> usize {
        16
    }

    pub(super) fn epochs() -> u64 {
        300
    }

    pub(super) fn evaluate_every() -> u64 {
        10
    }

    pub(super) fn lr() -> f64 {
        1e-4
    }

    pub(super) fn lr_backbone() -> f64 {
        1e-5
    }

    pub(super) fn weight_decay() -> f64 {
        1e-4
    }

    pub(super) fn clip() -> f64 {
        0.1
    }

    pub(super) fn dropout() -> f32 {
        0.1
    }

    pub(super) fn drops() -> Vec<f64> {
        vec![0.8]
    }
}

impl TrainConfig {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] with line and column when it is no configuration.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&files::read_text(path, MAX_BYTES)?).map_err(|what| Error::format(path, what))
    }

    /// Reads a configuration from JSON.
    ///
    /// # Errors
    /// What is wrong, with line and column.
    pub fn parse(json: &str) -> Result<Self, String> {
        serde_json::from_str(json).map_err(|e| format!("expected a training configuration, found: {e}"))
    }

    /// Checks what the type system does not.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field, its value and what it may be.
    pub fn validate(&self) -> Result<()> {
        self.model.validate()?;
        let wrong =
            |name: &str, value: &dyn std::fmt::Display, wants: &str| Err(Error::Config(format!("`{name}` is {value}; it must be {wants}")));
        let rates = [("lr", self.lr), ("lr_backbone", self.lr_backbone), ("weight_decay", self.weight_decay)];
        for (name, value) in rates {
            if !(0.0..=1e3).contains(&value) {
                return wrong(name, &value, "between 0 and 1000");
            }
        }
        if !(self.clip > 0.0 && self.clip.is_finite()) {
            return wrong("clip", &self.clip, "above 0");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong("dropout", &self.dropout, "from 0 to below 1");
        }
        if self.query_groups > MOST_GROUPS {
            return wrong("query_groups", &self.query_groups, &format!("at most {MOST_GROUPS}"));
        }
        if self.batch == 0 || self.epochs == 0 {
            return wrong("batch or epochs", &0, "at least 1");
        }
        if let Some(drop) = self.drops.iter().find(|d| !(0.0..=1.0).contains(*d)) {
            return wrong("drops", drop, "between 0 and 1");
        }
        let side = |length: usize| (1..=1 << 14).contains(&length);
        match self.sizes.iter().find(|&&(h, w)| !side(h) || !side(w)) {
            Some((h, w)) => wrong("sizes", &format!("{h}x{w}"), "at least one, with sides of 1 to 16384 pixels"),
            None if self.sizes.is_empty() => wrong("sizes", &"empty", "at least one, with sides of 1 to 16384 pixels"),
            None => self.recipe().check(),
        }
    }

    /// The sizes that batches are padded to.
    pub fn buckets(&self) -> Vec<Size> {
        self.sizes.iter().map(|&(height, width)| Size { width, height }).collect()
    }

    /// How pictures are varied: as configured, else [`SmallRecipe`] at the first size.
    pub fn recipe(&self) -> Recipe {
        let Resize { shorter, longer } = self.resize();
        self.augmentation.clone().unwrap_or_else(|| Recipe::Small(SmallRecipe { shorter, longer, ..SmallRecipe::default() }))
    }

    /// How pictures are made for validation.
    pub fn resize(&self) -> Resize {
        let (height, width) = self.sizes[0];
        Resize { shorter: height.min(width), longer: height.max(width) }
    }

    /// Whether a parameter is trained.
    pub fn trains(&self, name: &str) -> bool {
        !self.freeze.iter().any(|prefix| name.starts_with(prefix.as_str()))
    }

    /// Learning rates of the transformer and of the backbone at a step of a run of so many steps.
    pub fn rates(&self, step: u64, steps: u64) -> [f32; 2] {
        let warm = if self.warmup == 0 { 1.0 } else { ((step + 1) as f64 / self.warmup as f64).min(1.0) };
        let dropped = self.drops.iter().filter(|&&d| step as f64 >= d * steps as f64).count();
        let factor = warm * 0.1f64.powi(dropped as i32);
        [self.lr, self.lr_backbone].map(|rate| (rate * factor) as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TrainConfig {
        let model = serde_json::to_value(ModelConfig::detr("mobilenet_v2").unwrap()).unwrap();
        TrainConfig::parse(&serde_json::json!({ "model": model }).to_string()).unwrap()
    }

    #[test]
    fn the_model_alone_is_a_configuration() {
        let config = config();
        config.validate().unwrap();
        let again = TrainConfig::parse(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
        assert!(TrainConfig::parse("{\"modle\": 1}").unwrap_err().contains("line 1"));
    }

    #[test]
    fn numbers_without_sense_are_named() {
        let wrong = |name: &str, change: fn(&mut TrainConfig)| {
            let mut config = config();
            change(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(name), "{name}: {error}");
        };
        wrong("lr", |c| c.lr = f64::NAN);
        wrong("clip", |c| c.clip = 0.0);
        wrong("query_groups", |c| c.query_groups = 1000);
        wrong("dropout", |c| c.dropout = 1.0);
        wrong("batch", |c| c.batch = 0);
        wrong("drops", |c| c.drops = vec![0.5, 1.5]);
        wrong("sizes", |c| c.sizes = vec![(480, 0)]);
        wrong("sizes", |c| c.sizes.clear());
        wrong("d_model", |c| c.model.d_model = 0);
    }

    #[test]
    fn rates_rise_and_drop() {
        let config = TrainConfig { lr: 1.0, lr_backbone: 0.5, warmup: 4, drops: vec![0.5, 0.9], ..config() };
        assert_eq!(config.rates(0, 100), [0.25, 0.125]);
        assert_eq!(config.rates(4, 100), [1.0, 0.5]);
        assert_eq!(config.rates(49, 100)[0], 1.0);
        assert!((config.rates(50, 100)[0] - 0.1).abs() < 1e-6 && (config.rates(95, 100)[1] - 0.005).abs() < 1e-6);
    }

    #[test]
    fn frozen_names_are_beginnings() {
        let config = TrainConfig { freeze: vec!["backbone.0.body.layer1".into()], ..config() };
        assert!(!config.trains("backbone.0.body.layer1.0.conv1.weight") && config.trains("backbone.0.body.layer2.0.conv1.weight"));
    }
}
