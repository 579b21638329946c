//! Training: who learns from what, and how.

pub mod criterion;
pub mod matcher;
