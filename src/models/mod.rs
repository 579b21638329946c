//! Models that read like their papers.

pub mod config;

pub use config::ModelConfig;
