//! Training: who learns from what, and how.

pub mod matcher;
