//! Low-bit detection transformers on any GPU.

pub mod boxes;
pub mod data;
pub mod draw;
pub mod error;
pub mod eval;
mod files;
pub mod gpu;
pub mod graph;
pub mod kernels;
pub mod models;
pub mod nn;
pub mod rng;
pub mod tensor;
pub mod train;
pub mod weights;

pub use error::{Error, Result};

/// The example in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
