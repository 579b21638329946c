//! Training: who learns from what, and how.
//!
//! [`run()`] is the loop, [`Trainer`] one step of it on the device, [`train_graph`] the graph of that step.

pub mod ablation;
mod accumulate;
mod config;
pub mod criterion;
mod curves;
pub mod distill;
mod evaluate;
mod graph;
pub mod groups;
mod log;
mod loss_scale;
pub mod matcher;
pub mod optimizer;
mod quantize;
mod resume;
mod room;
mod run;
pub mod schedule;
mod teaching;
mod trainer;

pub use config::{HeightWidth, TrainConfig};
pub use distill::{Distillation, Teacher};
pub use evaluate::evaluate;
pub use graph::{GRADIENT, StepOptions, TrainGraph, train_graph};
pub use log::StepLine;
pub use loss_scale::LossScale;
pub use quantize::{CALIBRATION_PICTURES, align, calibrate};
pub use resume::{Saved, saved};
pub use room::prepare;
pub use run::{Best, Event, Job, Outcome, run};
pub use teaching::Teaching;
pub use trainer::{StepReport, Trainer, TrainerOptions};
