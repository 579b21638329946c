//! Models that read like their papers, and what runs them.

pub mod backbone;
pub mod config;
pub mod detr;
pub mod transformer;

pub use config::ModelConfig;
pub use detr::{BatchSize, Results, detr};
