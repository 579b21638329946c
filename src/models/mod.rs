//! Models that read like their papers, and what runs them.
//!
//! [`detr()`] builds the graph of one batch size. [`Detector`] owns a device's share of a model: it makes a plan for each size that
//! comes, and turns answers into boxes.

pub mod align;
pub mod backbone;
pub mod calibrate;
pub mod classifier;
pub mod config;
pub mod costs;
pub mod detector;
pub mod detr;
pub mod distribution;
pub mod explain;
mod limits;
pub mod postprocess;
mod session;
pub mod smca;
pub mod transformer;

pub use align::Aligner;
pub use calibrate::{Calibrated, CalibrationMethod, Calibrator};
pub use classifier::Classifier;
pub use config::ModelConfig;
pub use detector::Detector;
pub use detr::{BatchSize, Given, Results, detr, for_training, observing};
pub use distribution::Distribution;
pub use explain::{CoAttention, Explainer, Look};
pub use postprocess::Detection;
pub use session::Session;
