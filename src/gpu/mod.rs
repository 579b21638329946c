//! Everything that speaks wgpu, and nothing that knows of networks.
//!
//! - [`Gpu`]: one opened device with its [`Capabilities`] and [`Counters`]; choose it with [`Select`].
//! - [`Dispatch`]: one kernel launch as plain data: shader source, constants, parameters, grid.
//! - [`Pipeline`]: a compiled shader, cached in memory by its text and on disk by the driver.
//! - [`Tuned`]: which kernels were measured to be faster than the default ones, kept beside that cache and used when asked for.
//! - [`shader`]: how WGSL files are composed and what is read back from them.
//! - `byte_matrices`: cooperative matrices of bytes, which WGSL cannot name: SPIR-V is retyped on its way to the driver.
//!
//! The only `unsafe` of the crate lives here: wgpu calls (trusted shader modules, SPIR-V of our own making, the pipeline cache),
//! what Vulkan lists of cooperative matrices, and the memory map of weight files.

mod adapter;
mod byte_matrices;
mod capabilities;
mod context;
mod dispatch;
mod memory;
mod pipeline;
pub mod shader;
mod tuned;

pub use adapter::{Select, adapters};
pub use capabilities::{Capabilities, Tier};
pub use context::{Counters, Gpu, Options};
pub use dispatch::{Dispatch, Words};
pub use memory::ReadBack;
pub use pipeline::{Pipeline, cache_folder};
pub use tuned::Tuned;
