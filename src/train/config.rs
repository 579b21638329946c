//! What a training run is: the part of a command line that belongs in a file.

use super::criterion::Criterion;
use super::distill::{Distillation, Teacher};
use super::groups::{GroupConfig, Rule, first_layers};
use super::optimizer::OptimizerOptions;
use super::schedule::Schedule;
use super::{StepOptions, Trainer, TrainerOptions};
use crate::data::Entry;
use crate::data::augment::{Recipe, SmallRecipe};
use crate::data::preprocess::{Resize, Size};
use crate::gpu::Gpu;
use crate::graph::Values;
use crate::models::ModelConfig;
use crate::models::config::Attention;
use crate::nn::Precision;
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
    /// In what the network computes; parameters, losses and the optimizer are f32 in any case.
    #[serde(default)]
    pub precision: Precision,
    /// How pictures are varied. Without it, flips, crops and colours at the first size.
    #[serde(default)]
    pub augmentation: Option<Recipe>,
    /// Pictures in a batch.
    #[serde(default = "default::batch")]
    pub batch: usize,
    /// Batches whose mean gradient makes one update: steps, epochs and schedules count updates.
    #[serde(default = "default::accumulate")]
    pub accumulate: usize,
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
    /// How the learning rates change over the run.
    #[serde(default)]
    pub schedule: Schedule,
    /// AdamW's decay of weights.
    #[serde(default = "default::weight_decay")]
    pub weight_decay: f64,
    /// Whether biases and the parameters of norms decay too, as in DETR.
    #[serde(default = "default::decay_vectors")]
    pub decay_vectors: bool,
    /// Rates of some parameters by whole parts of their names, behind that of the backbone; a later rule counts more.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// Parameters that are not trained, by whole parts of their names: `backbone`, `backbone.0.body.layer1`. Without it, the first
    /// layers of the backbone: see [`first_layers`].
    #[serde(default)]
    pub freeze: Option<Vec<String>>,
    /// Gradients are scaled down to this global norm.
    #[serde(default = "default::clip")]
    pub clip: f64,
    /// Decay of an average of the parameters, which is then what is evaluated and kept; 0.999 or so.
    #[serde(default)]
    pub average: Option<f64>,
    /// The share of elements that are dropped in the transformer.
    #[serde(default = "default::dropout")]
    pub dropout: f32,
    /// Groups of auxiliary queries, each as many as the model has; matched on their own, and gone when the model is used.
    #[serde(default)]
    pub query_groups: usize,
    /// What the model imitates of a teacher, where it has one: without this, as in Q-DETR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<Distillation>,
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

    pub(super) fn accumulate() -> usize {
        1
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

    pub(super) fn decay_vectors() -> bool {
        true
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
        self.schedule.validate()?;
        self.distillation.map_or(Ok(()), |distillation| distillation.validate())?;
        self.optimizer().validate()?;
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong("dropout", &self.dropout, "from 0 to below 1");
        }
        if self.query_groups > MOST_GROUPS {
            return wrong("query_groups", &self.query_groups, &format!("at most {MOST_GROUPS}"));
        }
        if self.batch == 0 || self.epochs == 0 {
            return wrong("batch or epochs", &0, "at least 1");
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

    /// The parameters that are not trained, by whole parts of their names.
    pub fn frozen(&self) -> Vec<String> {
        self.freeze.clone().unwrap_or_else(|| first_layers(&self.model.backbone))
    }

    /// Which parameters are trained, and how fast.
    pub fn groups(&self) -> GroupConfig {
        let backbone = Rule { name: "backbone".into(), lr: Some(self.lr_backbone), weight_decay: None };
        let frozen = self.frozen();
        let rules = [backbone].into_iter().chain(self.rules.iter().cloned()).collect();
        GroupConfig { lr: self.lr, weight_decay: self.weight_decay, decay_vectors: self.decay_vectors, rules, frozen }
    }

    /// How parameters are updated.
    pub fn optimizer(&self) -> OptimizerOptions {
        OptimizerOptions { clip: Some(self.clip as f32), average: self.average, accumulate: self.accumulate, ..OptimizerOptions::default() }
    }

    /// What is imitated of a teacher, when there is one.
    pub fn distilling(&self) -> Distillation {
        self.distillation.unwrap_or_default()
    }

    /// The trainer of a run from these parameters, with a teacher or without.
    ///
    /// # Errors
    /// As [`Trainer::new`] and [`Trainer::with_teacher`].
    ///
    /// # Panics
    /// As [`Trainer::new`].
    pub fn start(&self, gpu: &Gpu, parameters: Values, teacher: Option<Teacher>) -> Result<Trainer> {
        let trainer = Trainer::new(gpu, self.model.clone(), parameters, self.trainer())?;
        match teacher {
            Some(teacher) => trainer.with_teacher(teacher, self.distilling()),
            None => Ok(trainer),
        }
    }

    /// What a [`Trainer`] wants to know.
    pub fn trainer(&self) -> TrainerOptions {
        let criterion = match self.model.attention {
            Attention::Plain => Criterion::DETR,
            Attention::Smca => Criterion::SMCA,
        };
        let step = StepOptions {
            precision: self.precision,
            criterion,
            dropout: self.dropout,
            query_groups: self.query_groups,
            entry: Entry::Bytes,
        };
        TrainerOptions { step, groups: self.groups(), optimizer: self.optimizer() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::schedule::Decay;

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
        wrong("accumulate", |c| c.accumulate = 0);
        wrong("schedule", |c| c.schedule.decay = Decay::MultiStep { at: vec![0.5, 1.5], factor: 0.1 });
        wrong("average", |c| c.average = Some(1.0));
        wrong("distillation", |c| c.distillation = Some(Distillation { weight: -1.0, ..Distillation::default() }));
        wrong("sizes", |c| c.sizes = vec![(480, 0)]);
        wrong("sizes", |c| c.sizes.clear());
        wrong("d_model", |c| c.model.d_model = 0);
    }

    #[test]
    fn the_first_layers_are_frozen_unless_said_otherwise() {
        assert!(config().frozen().contains(&"backbone.0.body.features.0".to_owned()));
        let config = TrainConfig { freeze: Some(vec![]), lr_backbone: 0.5, ..config() };
        assert!(config.frozen().is_empty());
        assert_eq!(config.groups().rules, [Rule { name: "backbone".into(), lr: Some(0.5), weight_decay: None }]);
    }
}
