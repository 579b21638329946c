//! Training: who learns from what, and how.
//!
//! [`run()`] is the loop, [`Trainer`] one step of it on the device, [`train_graph`] the graph of that step.

mod config;
pub mod criterion;
mod evaluate;
mod graph;
pub mod matcher;
mod optimizer;
mod resume;
mod run;
mod trainer;

pub use config::{HeightWidth, TrainConfig};
pub use evaluate::evaluate;
pub use graph::{GRADIENT, StepOptions, TrainGraph, train_graph};
pub use optimizer::Update;
pub use run::{Event, Job, Outcome, StepLine, prepare, run};
pub use trainer::{StepReport, Trainer, TrainerOptions};

use crate::models::config::Attention;
use crate::nn::Precision;
use criterion::Criterion;

/// What a configuration says of a [`Trainer`].
pub fn trainer_options(config: &TrainConfig) -> TrainerOptions {
    let criterion = match config.model.attention {
        Attention::Plain => Criterion::DETR,
        Attention::Smca => Criterion::SMCA,
    };
    let step = StepOptions { precision: Precision::F32, criterion, dropout: config.dropout, query_groups: config.query_groups };
    TrainerOptions { step, clip: config.clip as f32, weight_decay: config.weight_decay as f32 }
}
