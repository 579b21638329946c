//! Quantization's decisions, on the host: how many bits, which step size belongs to what, where step sizes start, and how codes
//! are stored. The arithmetic is in [`crate::kernels::quantize`].

mod bits;
mod histogram;
mod observer;
pub mod pack;
mod policy;
mod quantizer;
mod range;

pub use bits::Bits;
pub use observer::Observer;
pub use policy::{LayerBits, Preset, Quantization};
pub use quantizer::{Granularity, Method, Quantizer, Sign, Steps};
