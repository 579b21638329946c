//! Values without a device: [`Shape`], [`DType`], [`Host`] tensors, and the one place that [`compare`]s numbers.

pub mod compare;
mod host;
mod shape;

pub use host::{Data, Host};
pub use shape::{DType, Shape, TensorType};
